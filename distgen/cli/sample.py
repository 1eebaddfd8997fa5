"""`distgen sample`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from distgen.cli.console import console, print_json

if TYPE_CHECKING:
    from distgen.registry.bundle import Bundle


def sample(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A run, a bundle, name, name@alias or name:version."),
    ],
    out: Annotated[str, typer.Option(help="Where the sheet goes, as PNG.")] = "sheet.png",
    kind: Annotated[
        str,
        typer.Option(
            help="grid: pictures, a class to a row; interpolate: from one to another in each row."
        ),
    ] = "grid",
    rows: Annotated[
        int | None, typer.Option(min=1, max=64, help="Rows; by default 8, or one for each class.")
    ] = None,
    columns: Annotated[int, typer.Option(min=2, max=64, help="Pictures in a row.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other pictures.")] = 0,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class", "--classes", help="A class that rows take in turn; repeat for more."
        ),
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(help="Lower is more typical and less varied; from 0.05 to 10."),
    ] = None,
    root: Annotated[str, typer.Option(help="Path of the model store.")] = "models",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at a model without a server: its pictures on one sheet.

    Pictures are those of an endpoint for this seed and class.
    """
    from distgen.core.errors import UsageError, did_you_mean
    from distgen.core.storage import locate
    from distgen.metrics.grid import grid_png
    from distgen.registry import load_bundle, resolve_model
    from distgen.serving.engine import network_of
    from distgen.serving.sampler import MAX_TRUNCATION, MIN_TRUNCATION
    from distgen.serving.sheets import KINDS, MOST_CLASSES, ROWS, SheetOptions

    if kind not in KINDS:
        raise UsageError(f"There is no kind of sheet {kind!r}.", remedy=did_you_mean(kind, KINDS))
    if truncation is not None and not MIN_TRUNCATION <= truncation <= MAX_TRUNCATION:
        raise UsageError(
            f"truncation cannot be {truncation}.",
            remedy=f"--truncation from {MIN_TRUNCATION} to {MAX_TRUNCATION}",
        )
    place = locate(out)
    if place.is_dir():
        raise UsageError(f"{str(place)!r} is a folder.", remedy=f"--out {place / 'sheet.png'}")
    bundle = load_bundle(resolve_model(model, root))
    labels = _labels(bundle, classes or [])
    options = SheetOptions(
        labels=labels,
        rows=rows or min(len(labels), MOST_CLASSES) or ROWS,
        columns=columns,
        seed=seed,
        truncation=truncation,
    )
    pictures_nhwc = KINDS[kind](network_of(bundle), options)
    try:
        place.write_bytes(grid_png(pictures_nhwc, columns=columns))
    except (OSError, ValueError) as error:
        raise UsageError(
            "The sheet cannot be saved.",
            where=str(place),
            cause=str(error),
            remedy="--out with a file that can be written, or fewer --rows and --columns",
        ) from error
    if as_json:
        print_json({"out": place.url, "model": bundle.name, "digest": bundle.digest, "seed": seed})
        return
    console.print(
        f"{options.rows} x {columns} pictures by {bundle.name} ({bundle.digest[:12]}): {place}"
    )


def _labels(bundle: Bundle, names: list[str]) -> tuple[int, ...]:
    """Numbers of the classes that rows take, all of them by default; none without classes."""
    from distgen.core.errors import UsageError
    from distgen.serving.engine import network_of
    from distgen.serving.sampler import class_numbers

    known = bundle.spec.classes if network_of(bundle).num_classes else ()
    if bundle.spec.frames is not None:
        raise UsageError(
            f"{bundle.name} makes {bundle.spec.samples_text}, and sheets show single pictures.",
            where=str(bundle.location),
        )
    return class_numbers(names, known)
