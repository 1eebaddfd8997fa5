"""`distgen data`: build shard sets, and look at them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli import data_plan
from distgen.cli.console import (
    bytes_text,
    console,
    err_console,
    print_json,
    print_table,
    strong,
)
from distgen.core.errors import UsageError

if TYPE_CHECKING:
    from distgen.core.storage import Location
    from distgen.data import Built, Manifest, ShardSet
    from distgen.data.inspect import Summary
    from distgen.data.scan import Indexed

app = typer.Typer(help="Build shard sets from pictures, and look at them.", no_args_is_help=True)

app.command("plan")(data_plan.plan)

_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_SET = Annotated[
    str, typer.Argument(metavar="SET", help="Path or URL of a shard set, or of a folder of splits.")
]


@app.command()
def build(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="`digits`, `fashion-mnist`, a folder of pictures or, with --frames, of videos (a "
            "class is a first-level subfolder), or a folder of IDX files.",
        ),
    ],
    dst: Annotated[str, typer.Argument(metavar="DST", help="Folder to write: a path or a URL.")],
    size: Annotated[
        str | None, typer.Option(help="Pixels: SIDE or WIDTHxHEIGHT. Default: the source's own.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="`L` (grey) or `RGB`. Default: the source's own.")
    ] = None,
    fit: Annotated[
        str,
        typer.Option(
            help="Other proportions: `crop` to the centre, `pad` with black (never enlarges), "
            "or `stretch`."
        ),
    ] = "crop",
    frames: Annotated[
        int | None,
        typer.Option(
            help="Make clips of so many frames of videos, animated GIF, WebP and PNG, and .npy "
            "arrays of frames. Default: pictures."
        ),
    ] = None,
    stride: Annotated[
        int, typer.Option(help="Every how many-th frame of a video is one of a clip's.")
    ] = 1,
    split: Annotated[
        float | None,
        typer.Option(
            help="Share of the pictures, or videos, that becomes the split `test`; 0 for no splits."
        ),
    ] = None,
    encoding: Annotated[
        str,
        typer.Option(help="`png`, `jpg`, or `auto`: JPEG for what came as JPEG, else PNG."),
    ] = "auto",
    quality: Annotated[int, typer.Option(help="Quality of JPEGs that have to be written.")] = 95,
    workers: Annotated[
        int | None, typer.Option(help="Threads that convert. Default: one for each core.")
    ] = None,
    shard_samples: Annotated[int, typer.Option(help="Samples in a shard, at most.")] = 8192,
    shard_mib: Annotated[int, typer.Option(help="MiB after which a new shard begins.")] = 256,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace the shard set that is there, once the new one is whole."
        ),
    ] = False,
    drop_duplicates: Annotated[
        bool,
        typer.Option(
            "--drop-duplicates", help="Leave out files with the content of one that came before."
        ),
    ] = False,
    as_json: _JSON = False,
) -> None:
    """Build a shard set: WebDataset tars with an index and a manifest.

    Messy folders are fine: orientation and colour profiles are applied, transparency goes over
    white, and what cannot be used is listed in rejected.csv with the reason. Files with the same
    content are listed in duplicates.csv. A build that was killed goes on when it is run again.
    """
    from distgen.data import build as build_set

    with _progress("pictures" if frames is None else "clips") as show:
        built = build_set(
            source,
            dst,
            size=_parse_size(size),
            mode=mode,  # type: ignore[arg-type]  # checked there, with the nearest choice
            fit=fit,  # type: ignore[arg-type]
            frames=frames,
            stride=stride,
            split=split,
            encoding=encoding,  # type: ignore[arg-type]
            quality=quality,
            workers=workers,
            shard_samples=shard_samples,
            shard_bytes=shard_mib << 20,
            overwrite=overwrite,
            drop_duplicates=drop_duplicates,
            on_progress=show,
        )
    if as_json:
        print_json(_built_as_json(built))
        return
    _show_built(built)


@app.command()
def index(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Folder of WebDataset tars: a path or a URL.")
    ],
    match: Annotated[str, typer.Option(help="Which of its files are shards.")] = "*.tar",
    picture: Annotated[
        str | None,
        typer.Option(
            help="Extension of the pictures or clips, where samples have several: `left.jpg`."
        ),
    ] = None,
    label_key: Annotated[
        str | None,
        typer.Option(help="Key in the `json` members that says the class. Default: `cls` members."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class names in label order, with commas between them.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="What part this is: `train`, `test`.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Tars that are read at a time. Default: one for each core.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the manifest that is there.")
    ] = False,
    as_json: _JSON = False,
) -> None:
    """Make tars of another tool a shard set, without changing them."""
    from distgen.data.scan import index as index_tars

    with _progress("bytes") as show:
        indexed = index_tars(
            url,
            match=match,
            picture=picture,
            label_key=label_key,
            classes=[name.strip() for name in classes.split(",")] if classes else None,
            split=split,
            workers=workers,
            overwrite=overwrite,
            on_progress=partial(show, "indexing"),
        )
    if as_json:
        print_json(_indexed_as_json(indexed))
        return
    _show_indexed(indexed)


@app.command()
def inspect(
    shards: _SET,
    pictures: Annotated[
        int, typer.Option(help="Pictures or clips to decode for the mean and deviation.", min=1)
    ] = 10_000,
    as_json: _JSON = False,
) -> None:
    """Counts, sizes, classes, mean and standard deviation."""
    from distgen.data.inspect import inspect as inspect_set

    summaries = []
    for shard_set in _open_all(shards):
        with _progress("pictures") as show:
            told = partial(show, shard_set.manifest.split or "reading")
            summaries.append(inspect_set(shard_set, pictures, told))
    if as_json:
        print_json({"url": shards, "sets": [asdict(summary) for summary in summaries]})
        return
    for summary in summaries:
        _show_summary(summary)


@app.command()
def verify(shards: _SET, as_json: _JSON = False) -> None:
    """Compare every byte with its checksum; exit code 2 where one differs."""
    from distgen.data.inspect import verify as verify_set

    verdicts = []
    for shard_set in _open_all(shards):
        with _progress("bytes") as show:
            told = partial(show, shard_set.manifest.split or "verifying")
            verdicts.append(verify_set(shard_set, told))
    if as_json:
        print_json({"ok": all(v.ok for v in verdicts), "sets": [asdict(v) for v in verdicts]})
    for verdict in verdicts:
        if verdict.ok and not as_json:
            console.print(
                strong(
                    "ok",
                    f"  {verdict.url}  {verdict.samples:,} samples in "
                    f"{verdict.shards} shards, {bytes_text(verdict.bytes)}",
                    style="green",
                )
            )
    for verdict in verdicts:
        verdict.raise_if_bad()


@app.command()
def preview(
    shards: _SET,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG file to write.")] = Path(
        "preview.png"
    ),
    columns: Annotated[
        int, typer.Option(help="Pictures, or frames of a clip, in a row.", min=1)
    ] = 10,
    rows: Annotated[int | None, typer.Option(help="Rows. Default: one for each class.")] = None,
    label: Annotated[
        str | None, typer.Option("--class", help="Show only this class, in a grid.")
    ] = None,
) -> None:
    """Write a contact sheet of the pictures; a clip has a row of its own."""
    from distgen.core.storage import locate
    from distgen.data.inspect import preview as preview_set

    png = preview_set(_open_all(shards)[0], columns=columns, rows=rows, label=label)
    locate(out).write_bytes(png)
    console.print(str(out))


def _open_all(url: str) -> list[ShardSet]:
    """The set at `url`, or all of its splits."""
    from distgen.core.storage import locate
    from distgen.data import open_shard_set, splits_of
    from distgen.data.index import MANIFEST_NAME

    if (locate(url) / MANIFEST_NAME).is_file():
        return [open_shard_set(url)]
    return [open_shard_set(url, split) for split in splits_of(url)] or [open_shard_set(url)]


def _parse_size(text: str | None) -> int | tuple[int, int] | None:
    """`64` or `96x64` (width x height) as a side or (height, width)."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text.strip().lower())
    if match is None:
        raise UsageError(
            f"--size {text!r} is not a size.", remedy="SIDE or WIDTHxHEIGHT, such as 64 or 96x64"
        )
    width, height = match.groups()
    return int(width) if height is None else (int(height), int(width))


@contextmanager
def _progress(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage on stderr, in a terminal only; yields what is told of progress."""
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description:10}"),
        BarColumn(),
        TextColumn("{task.fields[done]}/{task.fields[all]} " + unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=err_console,
        transient=True,
        disable=not err_console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}

    def show(stage: str, done: int, total: int) -> None:
        amount = bytes_text if unit == "bytes" else "{:,}".format
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, done="", all="", rate="")
        bar.update(tasks[stage], completed=done, total=total, done=amount(done), all=amount(total))
        speed = bar.tasks[tasks[stage]].speed
        if speed:
            bar.update(tasks[stage], rate=f"{amount(round(speed))}/s")

    with bar:
        yield show


def _indexed_as_json(indexed: Indexed) -> dict[str, Any]:
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


def _show_indexed(indexed: Indexed) -> None:
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


def _built_as_json(built: Built) -> dict[str, Any]:
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


def _show_built(built: Built) -> None:
    from distgen.data.build import DUPLICATES_NAME, REJECTED_NAME

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


def _show_summary(summary: Summary) -> None:
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
