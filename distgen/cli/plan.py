"""`distgen plan`: what a job would do on more workers than there are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli.console import bytes_text, console, err_console, print_json, print_table
from distgen.core.errors import UsageError

if TYPE_CHECKING:
    from distgen.bench.scale.plan import ScalePlan
    from distgen.bench.scale.predict import Row


def plan(
    job_file: Annotated[str, typer.Argument(metavar="JOB", help="A job file of kind train.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Overrides, such as training.batch_size=512."
        ),
    ] = None,
    workers: Annotated[
        str, typer.Option(metavar="N,N,...", help="Numbers of workers to look at.")
    ] = "1,2,4,8",
    network: Annotated[
        str | None,
        typer.Option(help="Bandwidth of a host, all its cards together: 100Gb, 12.5GB."),
    ] = None,
    per_host: Annotated[
        int | None,
        typer.Option(
            "--gpus-per-host",
            "--workers-per-host",
            min=1,
            help="Workers of a host. Default: its GPUs, or as many as it has cores for.",
        ),
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="CPU cores of a host, which its workers share.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="A GPU such as h200: its links, and its speed unless you have measured that."
        ),
    ] = None,
    step_ms: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[IMAGES:]MS",
            help="Milliseconds of one worker's step on the whole batch, or on so many images, in "
            "place of measuring; twice for the cost that no image has.",
        ),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(help="What `distgen bench train JOB --profile --json` printed, in a file."),
    ] = None,
    store_bandwidth: Annotated[
        str | None, typer.Option(help="Of the store with the shards, for all hosts: 10Gb.")
    ] = None,
    scale_batch: Annotated[
        bool, typer.Option("--scale-batch", help="Show also a batch that grows with the workers.")
    ] = False,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Another assumption; --json lists all with their values."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What a job would do on more workers: time of a step, speed, and what holds it up.

    Measures the job's own step on this machine for some seconds, or takes what you have measured,
    and adds what a cluster adds: sums of gradients over its network, reads from its store.
    """
    from distgen.bench.scale.links import parse_rate
    from distgen.bench.scale.plan import Wishes, make_plan
    from distgen.bench.scale.predict import Assumptions
    from distgen.cli.kinds import read_job
    from distgen.core.assumptions import assuming
    from distgen.training.run import open_pictures

    if step_ms and measured:
        raise UsageError(
            "--step-ms and --measured each say how fast a worker is.", remedy="give one of them"
        )
    wishes = Wishes(
        workers=_numbers(workers),
        network_bytes_per_s=parse_rate(network) if network else None,
        per_host=per_host,
        cores=cores,
        device=device,
        step_ms=tuple(step_ms or ()),
        report=_read_report(measured) if measured else None,
        store_bytes_per_s=parse_rate(store_bandwidth) if store_bandwidth else None,
        scale_batch=scale_batch,
        assumptions=assuming(Assumptions(), assume or []),
    )
    job = read_job(job_file, overrides or [], "train")
    with err_console.status("reading the shard set ...") as shown:
        planned = make_plan(
            job, open_pictures(job), wishes, lambda text: shown.update(f"{text} ...")
        )
    if as_json:
        print_json({"job": job.name, "family": job.model.family, **planned.as_json()})
    else:
        _show(job.name, planned)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(
            f"{text!r} is no list of numbers of workers.",
            where="--workers",
            remedy="--workers 8,64,512",
        )
    return tuple(sorted({int(part) for part in parts}))


def _read_report(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(
            "This file is not JSON.",
            where=str(path),
            cause=str(error),
            remedy=f"distgen bench train JOB --profile --json > {path}",
        ) from error
    return value if isinstance(value, dict) else {}


def _show(name: str, planned: ScalePlan) -> None:
    work = planned.work
    _show_rows(f"{name}: the same batch of {work.batch_size:,} images", planned.rows)
    if planned.scaled_rows:
        title = f"\n{planned.rank_batch:,} images on each worker: a batch that grows is another "
        _show_rows(
            title + "training, whose learning rate has to be found anew", planned.scaled_rows
        )
    console.print()
    parts = ", ".join(
        f"{phase.phase} {bytes_text(phase.bytes)} in "
        + ("1 sum" if len(phase.buckets) == 1 else f"{len(phase.buckets)} sums")
        for phase in work.sums
    )
    row = planned.rows[-1]
    copied_s = work.checkpoint_bytes / planned.wishes.assumptions.copy_bytes_per_s
    console.print(f"Gradients of a step: {parts}; buffers are never sent.")
    console.print(
        f"A checkpoint: {bytes_text(work.checkpoint_bytes)}, copied in {1e3 * copied_s:,.0f} ms, "
        f"written in {row.checkpoint_s:,.1f} s while training goes on."
    )
    console.print("Assumed (--assume NAME=VALUE, --json lists all):")
    for note in planned.notes:
        console.print(f"  {note}")


def _show_rows(title: str, rows: Sequence[Row]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None)
    for heading in ("workers", "hosts", "images each", "step ms", "sums ms", "waited for ms"):
        table.add_column(heading, justify="right")
    for heading in ("img/s", "efficiency", "store wants", "to the end"):
        table.add_column(heading, justify="right")
    table.add_column("most of the time goes to")
    for row in rows:
        table.add_row(
            f"{row.ranks:,}",
            f"{row.hosts:,}",
            f"{row.rank_batch:,}",
            f"{1e3 * row.step_s:,.1f}",
            f"{1e3 * row.exchange_s:,.1f}",
            f"{1e3 * row.exposed_s:,.1f}",
            f"{row.images_per_s:,.0f}",
            f"{row.efficiency:.0%}",
            f"{bytes_text(row.store_bytes_per_s)}/s",
            _duration(row.to_end_s),
            f"{row.bottleneck} ({row.parts[row.bottleneck] / row.step_s:.0%})",
        )
    print_table(table)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
