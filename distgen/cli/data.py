"""`distgen data`: build shard sets, and look at them."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli import data_build, data_plan
from distgen.cli.console import (
    bytes_text,
    console,
    print_json,
    print_table,
    strong,
)
from distgen.cli.data_build import in_short
from distgen.cli.progress import counting

if TYPE_CHECKING:
    from distgen.data import ShardSet
    from distgen.data.inspect import Summary
    from distgen.data.scan import Indexed

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
        typer.Option(help="Extension of the pictures, where samples have several: `left.jpg`."),
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

    with counting("bytes") as show:
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
        int, typer.Option(help="Pictures to decode for the mean and deviation.", min=1)
    ] = 10_000,
    as_json: _JSON = False,
) -> None:
    """Counts, sizes, classes, mean and standard deviation."""
    from distgen.data.inspect import inspect as inspect_set

    summaries = []
    for shard_set in _open_all(shards):
        with counting("pictures") as show:
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
        with counting("bytes") as show:
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
    columns: Annotated[int, typer.Option(help="Pictures in a row.", min=1)] = 10,
    rows: Annotated[int | None, typer.Option(help="Rows. Default: one for each class.")] = None,
    label: Annotated[
        str | None, typer.Option("--class", help="Show only this class, in a grid.")
    ] = None,
) -> None:
    """Write a contact sheet of the pictures."""
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
    console.print(in_short(indexed.location, manifest))
    if indexed.without_picture:
        console.print(
            f"{indexed.without_picture:,} samples have no picture and are not in the set, such as "
            f"{indexed.first_without}",
            style="yellow",
        )
    if indexed.empty:
        console.print(
            f"{len(indexed.empty):,} tars hold no picture and are not in the set, such as "
            f"{indexed.empty[0]}",
            style="yellow",
        )
    console.print(f"next: distgen data preview {indexed.location}")


def _show_summary(summary: Summary) -> None:
    from rich.table import Table
    from rich.text import Text

    split = f" ({summary.split})" if summary.split else ""
    table = Table(title=f"{summary.name}{split}", show_header=False, title_justify="left")
    rows = [
        ("place", summary.url),
        ("samples", f"{summary.samples:,}"),
        ("shards", f"{summary.shards:,}, {bytes_text(summary.bytes)}"),
        ("members", ", ".join(summary.fields)),
        ("pictures", f"{summary.width}x{summary.height} {summary.mode}"),
        ("mean", ", ".join(f"{value:.2f}" for value in summary.mean)),
        ("deviation", ", ".join(f"{value:.2f}" for value in summary.std)),
        ("measured on", f"{summary.pictures_measured:,} pictures, values 0 to 255"),
        ("fingerprint", summary.fingerprint[:16]),
    ]
    rows += [(f"class {name}", f"{count:,}") for name, count in summary.classes.items()]
    if summary.unlabelled:
        rows.append(("unlabelled", f"{summary.unlabelled:,}"))
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    print_table(table)
