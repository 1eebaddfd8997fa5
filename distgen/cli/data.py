"""`distgen data`: build shard sets, and look at them."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distgen.cli import data_build, data_plan
from distgen.cli.console import bytes_text, console, print_json, strong
from distgen.cli.data_show import (
    indexed_as_json,
    progress,
    show_indexed,
    show_summary,
)

if TYPE_CHECKING:
    from distgen.data import ShardSet

app = typer.Typer(help="Build shard sets from pictures, and look at them.", no_args_is_help=True)

app.command("build")(data_build.build)
app.command("plan")(data_plan.plan)

_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_SET = Annotated[
    str, typer.Argument(metavar="SET", help="Path or URL of a shard set, or of a folder of splits.")
]


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
    from distgen.data.building.scan import index as index_tars

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
