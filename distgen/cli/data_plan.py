"""`distgen data plan`: what streaming a set would cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from distgen.cli.console import bytes_text, console, print_json, print_table
from distgen.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from distgen.data.plan import Plan


def _count(text: str) -> int:
    """A number such as 1000000 or 1e6."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 1 <= number <= 1e15 or number != int(number):
        raise UsageError(f"{text!r} is no number of things.", remedy="such as 1000000 or 1e6")
    return int(number)


def plan(
    samples: Annotated[int, typer.Option(parser=_count, metavar="N", help="Pictures, as 1e9.")],
    shards: Annotated[int, typer.Option(parser=_count, metavar="N", help="Tars.")],
    ranks: Annotated[int, typer.Option(parser=_count, metavar="N", help="Workers.")] = 1,
    sample_bytes: Annotated[
        int, typer.Option(help="Mean bytes of a sample, with its tar headers.", min=1)
    ] = 20_000,
    batch_size: Annotated[
        int | None, typer.Option(help="Images of a global batch. Default: 64 for each rank.")
    ] = None,
    images_per_s: Annotated[
        float, typer.Option(help="Images that a rank takes in a second.")
    ] = 1000,
    side: Annotated[int, typer.Option(help="Pixels of a picture's side.", min=1)] = 256,
    mode: Annotated[str, typer.Option(help="`L` (grey) or `RGB`.")] = "RGB",
    lanes: Annotated[int, typer.Option(help="As in a job file.")] = 64,
    shuffle_window: Annotated[int, typer.Option(help="As in a job file.")] = 16_384,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Another cost than the default; --json lists them all."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What streaming a set of some size would cost: start-up, memory, requests, caches, mixing."""
    from distgen.core.assumptions import assuming
    from distgen.core.spec import MODES
    from distgen.data.plan import Costs, Workload
    from distgen.data.plan import plan as make_plan

    if mode not in MODES:
        raise UsageError(f"--mode {mode!r} is unknown.", remedy=did_you_mean(mode, MODES))
    workload = Workload(
        samples,
        shards,
        ranks,
        sample_bytes=sample_bytes,
        batch_size=batch_size or 64 * ranks,
        images_per_s=images_per_s,
        height=side,
        width=side,
        channels=1 if mode == "L" else 3,
        lanes=lanes,
        shuffle_window=shuffle_window,
    )
    planned = make_plan(workload, assuming(Costs(), assume or []))
    if as_json:
        print_json(planned.as_json())
        return
    _show_plan(planned)


def _show_plan(planned: Plan) -> None:
    from rich.table import Table
    from rich.text import Text

    def parts(values: dict[str, float], show: Callable[[float], str]) -> str:
        named = sorted(values.items(), key=lambda each: -each[1])
        return ", ".join(f"{name.replace('_', ' ')} {show(value)}" for name, value in named[:4])

    mixing = planned.quality
    table = Table(title="For each rank, unless said otherwise", title_justify="left")
    for heading in ("what", "estimate", "of which"):
        table.add_column(heading)
    rows = [
        (
            "first batch after",
            f"{planned.start_up_total_s:.1f} s",
            parts(planned.start_up_s, "{:.1f} s".format),
        ),
        ("memory", bytes_text(planned.memory_total_bytes), parts(planned.memory_bytes, bytes_text)),
        (
            "requests",
            f"{planned.requests_per_s:,.1f} per s",
            f"of 1 MiB, {planned.amplification:.2f} times what is used",
        ),
        ("bytes read", f"{bytes_text(planned.bytes_per_s)} per s", ""),
        ("an epoch", f"{planned.epoch_s:,.0f} s", ""),
        (
            "egress of an epoch",
            bytes_text(planned.egress_bytes_per_epoch),
            f"all ranks; the set has {bytes_text(planned.set_bytes)}",
        ),
        ("index", bytes_text(planned.index_bytes), "once, beside the set"),
        (
            "cache on disk",
            bytes_text(planned.disk_cache_bytes_per_host),
            "each host, for all shards",
        ),
        ("cache in memory", bytes_text(planned.memory_cache_bytes_per_host), "each host, decoded"),
        (
            "neighbours",
            f"{mixing['adjacent_correlation']:+.3f}",
            "correlation of a sample and the next; 0 is best",
        ),
        (
            "positions",
            f"{mixing['chi_squared']:,.0f}",
            "chi-squared for each degree of freedom; 1 is best",
        ),
        ("shards in a batch", f"{mixing['shards_per_batch']:,.0f}", "on average"),
    ]
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    print_table(table)
    for line in planned.advice:
        console.print(line, style="yellow")
