"""`distgen data`: build shard sets, and look at them."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distgen.cli import data_plan
from distgen.cli.console import bytes_text, console, print_json, strong
from distgen.cli.data_show import (
    built_as_json,
    indexed_as_json,
    progress,
    show_built,
    show_indexed,
    show_summary,
)
from distgen.core.errors import UsageError

if TYPE_CHECKING:
    from distgen.data import ShardSet

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

    with progress("pictures" if frames is None else "clips") as show:
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
        print_json(built_as_json(built))
        return
    show_built(built)


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

    with progress("bytes") as show:
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
        print_json(indexed_as_json(indexed))
        return
    show_indexed(indexed)


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
        with progress("pictures") as show:
            told = partial(show, shard_set.manifest.split or "reading")
            summaries.append(inspect_set(shard_set, pictures, told))
    if as_json:
        print_json({"url": shards, "sets": [asdict(summary) for summary in summaries]})
        return
    for summary in summaries:
        show_summary(summary)


@app.command()
def verify(shards: _SET, as_json: _JSON = False) -> None:
    """Compare every byte with its checksum; exit code 2 where one differs."""
    from distgen.data.inspect import verify as verify_set

    verdicts = []
    for shard_set in _open_all(shards):
        with progress("bytes") as show:
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
