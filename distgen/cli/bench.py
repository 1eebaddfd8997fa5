"""`distgen bench`: ratios to hand-written loops, both sides measured in one run."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from distgen.cli.console import console, print_json, print_table, strong
from distgen.cli.signals import end_on_signals
from distgen.core.errors import UsageError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure distgen against hand-written loops on this machine."""
    end_on_signals()  # they have processes and folders to remove


_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def data(as_json: _JSON = False) -> None:
    """Streaming against the bare decode loop over the same bytes in RAM."""
    from distgen.bench.data import bench_data

    _show(bench_data(), as_json)


@app.command()
def order(
    samples: Annotated[int, typer.Option(help="Samples of the set.", min=1)] = 10**9,
    shards: Annotated[int, typer.Option(help="Its shards.", min=1)] = 10**6,
    ranks: Annotated[int, typer.Option(help="Ranks that share a batch.", min=1)] = 1024,
    as_json: _JSON = False,
) -> None:
    """Time and memory until a rank of a very large run knows its first batch."""
    from distgen.bench.order import bench_order

    _show(bench_order(samples=samples, shards=shards, ranks=ranks), as_json)


@app.command()
def shuffle(as_json: _JSON = False) -> None:
    """How well the order mixes, beside webdataset's shuffle buffer of the same size."""
    from distgen.bench.shuffle import bench_shuffle

    _show(bench_shuffle(), as_json)


@app.command()
def store(
    latency: Annotated[float, typer.Option(help="Seconds before each answer.", min=0)] = 0.05,
    as_json: _JSON = False,
) -> None:
    """Streaming from a store with latency against streaming from the disk."""
    from distgen.bench.store import bench_store

    _show(bench_store(latency_s=latency), as_json)


@app.command()
def train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[JOB] [KEY=VALUE]...",
            help="A training job, or none for the job of each family; overrides.",
        ),
    ] = None,
    family: Annotated[str | None, typer.Option(help="Only this family's job.")] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where a step's time goes, and compare nothing.")
    ] = False,
    images: Annotated[int, typer.Option(help="Images per measurement.", min=256)] = 12_800,
    rounds: Annotated[int, typer.Option(help="Measurements of each side.", min=1)] = 3,
    as_json: _JSON = False,
) -> None:
    """Training on Ray Train workers against a DDP loop with the data in RAM.

    Without a JOB it is measured for each family, and the lowest ratio comes first. `--profile`
    runs the trainer's own ranks without Ray, and tells what a step spends its time on.
    """
    from distgen.bench.profile import bench_profile
    from distgen.bench.train import bench_families, bench_train
    from distgen.cli.kinds import read_job

    files, overrides = jobs_and_overrides(arguments or [], family)
    jobs = [read_job(file, overrides, "train") for file in files]
    if profile:
        profiles = [bench_profile(job, images=images) for job in jobs]
        if as_json:
            print_json({"profiles": profiles})
        else:
            for result in profiles:
                _show_profile(result)
    elif len(jobs) == 1:
        _show(bench_train(jobs[0], images=images, rounds=rounds), as_json)
    else:
        _show(bench_families(jobs, images=images, rounds=rounds), as_json)


@app.command()
def checkpoint(
    megabytes: Annotated[int, typer.Option(help="State of the run, in 10^6 bytes.", min=1)] = 500,
    folder: Annotated[
        str | None, typer.Option(help="A folder on the disk to write to. Default: temporary files.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Saves of each side that count.", min=1)] = 5,
    as_json: _JSON = False,
) -> None:
    """How long a step stands still for a checkpoint, beside a save that it would wait for."""
    from distgen.bench.checkpoint import bench_checkpoint

    _show(bench_checkpoint(megabytes=megabytes, rounds=rounds, folder=folder), as_json)


@app.command()
def serve(as_json: _JSON = False) -> None:
    """The endpoint against the bare model: forward passes and PNG encoding in a loop."""
    from distgen.bench.serve import bench_serve

    _show(bench_serve(), as_json)


def jobs_and_overrides(arguments: list[str], family: str | None) -> tuple[list[str], list[str]]:
    """The job files that are meant, and what is changed in each."""
    from distgen.bench.train import FAMILY_JOBS

    overrides = [text for text in arguments if "=" in text]
    files = [text for text in arguments if "=" not in text]
    if len(files) > 1 or (files and family):
        raise UsageError(
            "Name one job file, or a family, or neither.",
            where=" ".join(files),
            remedy="distgen bench train JOB, or distgen bench train --family vae",
        )
    if family is not None and family not in FAMILY_JOBS:
        raise UsageError(
            f"No job measures the family {family!r}.",
            where="--family",
            remedy=f"one of {', '.join(FAMILY_JOBS)}, or a JOB of your own",
        )
    named = [FAMILY_JOBS[family]] if family else list(FAMILY_JOBS.values())
    return files or named, overrides


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    for key, value in result.items():
        if isinstance(value, dict):
            console.print(strong(f"\n{key}"))
            _show(value, as_json)
            continue
        text = f"{value:,.3f}" if isinstance(value, float) else str(value)
        console.print(f"{key:32} {text}")


def _show_profile(result: dict[str, Any]) -> None:
    ranks = "1 rank" if result["workers"] == 1 else f"{result['workers']} ranks"
    table = Table(
        title=f"{result['family']}: a step of {result['batch_size']} pictures on {ranks} "
        f"({result['device']}), mean of {result['steps']} steps",
        title_justify="left",
        box=None,
    )
    table.add_column("what")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    table.add_column()
    step_ms = result["step_ms"]
    for name, part_ms in result["parts"].items():
        share = part_ms / step_ms
        table.add_row(name, f"{part_ms:,.2f}", f"{share:.1%}", "█" * round(30 * share))
    speed = f"{result['images_per_s']:,.0f} img/s"
    table.add_row("the whole step", f"{step_ms:,.2f}", "", speed, style="bold")
    print_table(table)
    console.print()
