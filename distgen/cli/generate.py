"""`distgen generate`."""

from __future__ import annotations

from typing import Annotated

import typer

from distgen.cli.console import console, err_console, print_json


def generate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A run, a bundle, name, name@alias or name:version."),
    ],
    count: Annotated[int, typer.Option(help="How many pictures or clips.", min=1)],
    out: Annotated[str, typer.Option(help="Path or URL of the shard set's folder.")],
    seed: Annotated[int, typer.Option(help="Another seed, other pictures.", min=0)] = 0,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help="A class that pictures take in turn; repeat for more. All by default."
        ),
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(help="Lower is more typical and less varied; from 0.05 to 10."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes; as many as fit, with a CPU each, by default.", min=1),
    ] = None,
    gpus_per_worker: Annotated[float, typer.Option(help="GPUs of each process.", min=0)] = 0.0,
    root: Annotated[str, typer.Option(help="Path of the model store.")] = "models",
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster's address; without it, one is started for this."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a shard set that is there already.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make many pictures, or clips, and write them as a shard set, on all of a cluster.

    Picture i is the same however many workers there are, and what an endpoint returns as the i-th
    picture for the same seed and class. What was cut short goes on when the command is given again.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    from distgen.core.storage import locate
    from distgen.generate import batch
    from distgen.registry.resolve import resolve_model

    bundle = resolve_model(model, root)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=err_console, transient=True) as progress:
        bar = progress.add_task("pictures", total=count)
        manifest = batch.generate(
            bundle,
            out,
            count,
            seed=seed,
            classes=classes or (),
            truncation=truncation,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            address=address,
            overwrite=overwrite,
            on_progress=lambda done, _total: progress.update(bar, completed=done),
        )
    if as_json:
        print_json(
            {"out": locate(out).url, "count": manifest.num_samples, "digest": manifest.fingerprint}
        )
        return
    made = "pictures" if manifest.image.frames is None else "clips"
    console.print(f"{manifest.num_samples:,} {made}: {locate(out)}")
    console.print(f"  look     distgen data preview {out}")
