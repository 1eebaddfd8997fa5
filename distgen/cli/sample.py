"""`distgen sample`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from distgen.cli.console import console, print_json

if TYPE_CHECKING:
    from distgen.metrics.animation import AnimationFormat
    from distgen.registry.bundle import Bundle


def sample(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A run, a bundle, name, name@alias or name:version."),
    ],
    out: Annotated[
        str,
        typer.Option(help="Where the sheet goes, as PNG; clips play where it ends in .gif, .webp."),
    ] = "sheet.png",
    kind: Annotated[
        str,
        typer.Option(
            help="grid: pictures, a class to a row; interpolate: from one to another in each row; "
            "traverse: what each latent of a VAE does, the strongest first."
        ),
    ] = "grid",
    rows: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Rows; by default 8, or one for each class; 24 latents at most."
        ),
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
    from distgen.core.errors import UsageError
    from distgen.core.storage import locate
    from distgen.metrics.animation import ANIMATION_FORMATS
    from distgen.metrics.traversal import ROWS as LATENTS
    from distgen.registry import load_bundle, resolve_model
    from distgen.serving.making.sampler import MAX_TRUNCATION, MIN_TRUNCATION
    from distgen.serving.making.sheets import MOST_CLASSES, ROWS, SheetOptions, sheet

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
    traversal = kind == "traverse"
    options = SheetOptions(
        labels=labels,
        rows=rows or (LATENTS if traversal else min(len(labels), MOST_CLASSES) or ROWS),
        columns=columns,
        seed=seed,
        truncation=truncation,
    )
    suffix = place.name.rpartition(".")[2].lower()
    moving = cast("AnimationFormat", suffix) if suffix in ANIMATION_FORMATS else None
    try:
        place.write_bytes(sheet(bundle, kind, options, moving))
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
    things = "clips" if bundle.spec.frames else "pictures"
    shown = "Latents, the strongest first," if traversal else f"{options.rows} x {columns} {things}"
    console.print(f"{shown} by {bundle.name} ({bundle.digest[:12]}): {place}")


def _labels(bundle: Bundle, names: list[str]) -> tuple[int, ...]:
    """Numbers of the classes that rows take, all of them by default; none without classes."""
    from distgen.serving.making.engine import network_of
    from distgen.serving.making.sampler import class_numbers

    known = bundle.spec.classes if network_of(bundle).num_classes else ()
    return class_numbers(names, known)
