"""`distgen bench`: ratios to hand-written loops, both sides measured in one run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from distgen.cli.console import console, print_json

app = typer.Typer(
    help="Measure distgen against hand-written loops on this machine.", no_args_is_help=True
)

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
    job_file: Annotated[
        str, typer.Argument(metavar="JOB", help="A training job.")
    ] = "jobs/fashion-gan.yaml",
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides.")
    ] = None,
    images: Annotated[int, typer.Option(help="Images per measurement.", min=256)] = 12_800,
    rounds: Annotated[int, typer.Option(help="Measurements of each side.", min=1)] = 3,
    as_json: _JSON = False,
) -> None:
    """Training on Ray Train workers against a DDP loop with the data in RAM."""
    from distgen.bench.train import bench_train
    from distgen.cli.kinds import read_job

    job = read_job(job_file, overrides or [], "train")
    _show(bench_train(job, images=images, rounds=rounds), as_json)


@app.command()
def serve(as_json: _JSON = False) -> None:
    """The endpoint against the bare model: forward passes and PNG encoding in a loop."""
    from distgen.bench.serve import bench_serve

    _show(bench_serve(), as_json)


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    for key, value in result.items():
        text = f"{value:,.3f}" if isinstance(value, float) else str(value)
        console.print(f"{key:32} {text}")
