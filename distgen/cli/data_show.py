"""What `distgen data` shows: progress, and what was made or found, for people and for scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distgen.cli.console import bytes_text, console, err_console, print_table

if TYPE_CHECKING:
    from distgen.core.storage import Location
    from distgen.data import Manifest
    from distgen.data.building import Built
    from distgen.data.building.scan import Indexed
    from distgen.data.inspect import Summary


@contextmanager
def progress(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage on stderr, in a terminal only; yields what is told of progress."""
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description:10}"),
        BarColumn(),
        TextColumn("{task.fields[done]}/{task.fields[all]} {task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=err_console,
        transient=True,
        disable=not err_console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}

    def show(stage: str, done: int, total: int) -> None:
        in_bytes = unit == "bytes" or stage == "scan"
        amount = bytes_text if in_bytes else "{:,}".format
        if stage not in tasks:
            shown = "" if in_bytes else unit
            tasks[stage] = bar.add_task(stage, done="", all="", rate="", unit=shown)
        bar.update(tasks[stage], completed=done, total=total, done=amount(done), all=amount(total))
        speed = bar.tasks[tasks[stage]].speed
        if speed:
            bar.update(tasks[stage], rate=f"{amount(round(speed))}/s")

    with bar:
        yield show


def indexed_as_json(indexed: Indexed) -> dict[str, Any]:
    """What a script wants to know of an indexed set."""
    manifest = indexed.manifest
    return {
        "url": str(indexed.location),
        "samples": manifest.num_samples,
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "fingerprint": manifest.fingerprint,
        "image": manifest.image.model_dump(mode="json"),
        "without_picture": indexed.without_picture,
        "empty": indexed.empty,
    }


def show_indexed(indexed: Indexed) -> None:
    """Tell what an indexed set holds, and what is left out of it."""
    manifest = indexed.manifest
    console.print(_in_short(indexed.location, manifest))
    if indexed.without_picture:
        console.print(
            f"{indexed.without_picture:,} samples have no picture or clip and are not in the set, "
            f"such as {indexed.first_without}",
            style="yellow",
        )
    if indexed.empty:
        console.print(
            f"{len(indexed.empty):,} tars hold no picture or clip and are not in the set, such as "
            f"{indexed.empty[0]}",
            style="yellow",
        )
    console.print(f"next: distgen data preview {indexed.location}")


def _in_short(place: Location, manifest: Manifest) -> str:
    """A shard set in a line."""
    image = manifest.image
    classes = f", {image.num_classes} classes" if image.classes else ""
    return (
        f"{place}  {manifest.num_samples:,} {image.samples_text}{classes}, "
        f"{len(manifest.shards)} shards"
    )


def built_as_json(built: Built) -> dict[str, Any]:
    """What a script wants to know of a built set."""
    return {
        "url": str(built.location),
        "samples": built.num_samples,
        "rejected": built.rejected,
        "duplicates": built.duplicates,
        "resumed_shards": built.resumed,
        "left_out_frames": built.left_out,
        "sets": [
            {
                "split": manifest.split,
                "samples": manifest.num_samples,
                "shards": len(manifest.shards),
                "bytes": sum(shard.bytes for shard in manifest.shards),
                "fingerprint": manifest.fingerprint,
                "image": manifest.image.model_dump(mode="json"),
            }
            for manifest in built.manifests.values()
        ],
    }


def show_built(built: Built) -> None:
    """Tell what was built, and what was left out."""
    from distgen.data.building.build import DUPLICATES_NAME, REJECTED_NAME

    for manifest in built.manifests.values():
        place = built.location / manifest.split if manifest.split else built.location
        console.print(_in_short(place, manifest))
    if built.rejected:
        console.print(
            f"{built.rejected:,} files could not be used: {built.location / REJECTED_NAME}",
            style="yellow",
        )
    if built.left_out:
        console.print(
            f"{built.left_out:,} frames at the ends of videos do not fill a clip and are not in "
            "the set"
        )
    if built.duplicates:
        of_clips = any(manifest.image.frames for manifest in built.manifests.values())
        same = "clips have the frames" if of_clips else "files have the content"
        console.print(
            f"{built.duplicates:,} {same} of another: {built.location / DUPLICATES_NAME}",
            style="yellow",
        )
    if built.resumed:
        console.print(f"{built.resumed:,} shards were there from a build that was cut short")
    console.print(f"next: distgen data preview {built.location}")


def show_summary(summary: Summary) -> None:
    """A table of what `distgen data inspect` found."""
    from rich.table import Table
    from rich.text import Text

    split = f" ({summary.split})" if summary.split else ""
    samples = "pictures" if summary.frames is None else "clips"
    frames = "" if summary.frames is None else f"{summary.frames} frames of "
    table = Table(title=f"{summary.name}{split}", show_header=False, title_justify="left")
    rows = [
        ("place", summary.url),
        ("samples", f"{summary.samples:,}"),
        ("shards", f"{summary.shards:,}, {bytes_text(summary.bytes)}"),
        ("members", ", ".join(summary.fields)),
        (samples, frames + f"{summary.width}x{summary.height} {summary.mode}"),
        ("mean", ", ".join(f"{value:.2f}" for value in summary.mean)),
        ("deviation", ", ".join(f"{value:.2f}" for value in summary.std)),
        ("measured on", f"{summary.pictures_measured:,} {samples}, values 0 to 255"),
        ("fingerprint", summary.fingerprint[:16]),
    ]
    rows += [(f"class {name}", f"{count:,}") for name, count in summary.classes.items()]
    if summary.unlabelled:
        rows.append(("unlabelled", f"{summary.unlabelled:,}"))
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    print_table(table)
