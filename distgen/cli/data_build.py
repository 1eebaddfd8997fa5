"""`distgen data build`: from a source of pictures to a shard set."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from distgen.cli.console import print_json
from distgen.cli.data_show import built_as_json, progress, show_built
from distgen.core.errors import UsageError

if TYPE_CHECKING:
    from distgen.data.building import Built


def build(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A built-in set, a path or a URL; see above.",
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
            "arrays of frames. Default: pictures; of `moving-fashion-mnist` clips of 20."
        ),
    ] = None,
    clips: Annotated[
        int | None,
        typer.Option(help="`moving-fashion-mnist`: clips to train on. Default: 10,000."),
    ] = None,
    test_clips: Annotated[
        int | None,
        typer.Option(
            help="`moving-fashion-mnist`: clips to hold out; of any number the first ones are the "
            "same. Default: 1,000."
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
    image_column: Annotated[
        str | None,
        typer.Option(help="Parquet: the column of pictures. Default: the only one of bytes."),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            help="Parquet: the column of classes. Default: `label`, `class`, `fine_label`, "
            "`target`, `category` or `cls`, else the only ClassLabel."
        ),
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option(help="Tars: extension of the pictures, where samples have several."),
    ] = None,
    label_key: Annotated[
        str | None,
        typer.Option(
            help="Tars: key in the `json` members that says the class. Default: `cls` members."
        ),
    ] = None,
    encoding: Annotated[
        str,
        typer.Option(help="`png`, `jpg`, or `auto`: JPEG for what came as JPEG, else PNG."),
    ] = "auto",
    quality: Annotated[int, typer.Option(help="Quality of JPEGs that have to be written.")] = 95,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Threads that convert, or processes where these do more. Default: one for each "
            "core."
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster's address: its processes convert, not this machine's."),
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Build a shard set: WebDataset tars with an index and a manifest.

    SRC is the first of these that it fits: a built-in set (`digits`, `stacked-digits`,
    `fashion-mnist`, `moving-fashion-mnist`); a Parquet file or a WebDataset tar; a shard set, or
    a folder of its splits; a folder of IDX files; a folder of Parquet files, of tars, or of
    pictures (a class is a first-level subfolder). All but IDX files and folders of pictures may
    be URLs, such as s3://bucket/path. Folders and files that are called train, test and val stay
    splits. Of tars and shard sets, the picture and the class of each sample go into the new set,
    and nothing else. With --frames it is a folder of videos. `moving-fashion-mnist` is made here:
    clips in which two items of Fashion-MNIST bounce around in 64x64.

    Messy folders are fine: orientation and colour profiles are applied, transparency goes over
    white, and what cannot be used is listed in rejected.csv with the reason. Files with the same
    content are listed in duplicates.csv. A build that was killed goes on when it is run again.
    """
    from distgen.data.building import build as build_here
    from distgen.data.building.sources import SourceOptions
    from distgen.data.building.sources.builtin import MADE_CLIPS

    run: Callable[..., Built] = build_here
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        from distgen.launch.build import build_on_cluster  # only here is Ray needed

        run = partial(build_on_cluster, address=address)
    with progress("clips" if frames or source in MADE_CLIPS else "pictures") as show:
        built = run(
            source,
            dst,
            size=_parse_size(size),
            mode=mode,  # checked there, with the nearest choice
            fit=fit,
            frames=frames,
            stride=stride,
            split=split,
            options=SourceOptions(
                image_column, label_column, picture, label_key, clips, test_clips
            ),
            encoding=encoding,
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
