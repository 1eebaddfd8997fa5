"""`distgen runs`: what has been trained, how far, and what happened on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli.console import console, print_json, print_table

if TYPE_CHECKING:
    from distgen.training.run import RunFolder

app = typer.Typer(help="List training runs and read their stories.", no_args_is_help=True)

_STORAGE = Annotated[str, typer.Option(help="Path or URL of the folder that holds runs.")]
_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_RUN = Annotated[str, typer.Argument(help="A run's folder, or its name below --storage.")]


@app.command("ls")
def list_runs(storage: _STORAGE = "runs", as_json: _JSON = False) -> None:
    """List the runs below a folder."""
    from rich.table import Table

    from distgen.core.storage import locate
    from distgen.training.run import RunFolder

    folders = [RunFolder(p) for p in locate(storage).list() if (p / "job.yaml").is_file()]
    rows = [_summary(folder) for folder in folders]
    if as_json:
        print_json(rows)
        return
    if not rows:
        console.print(f"No runs in {storage}; start one with: distgen train jobs/digits-gan.yaml")
        return
    table = Table("run", "family", "images seen", "of", "state", "card", box=None)
    for row in rows:
        table.add_row(
            row["name"],
            row["family"],
            f"{row['images_seen']:,}",
            f"{row['images']:,}",
            row["state"],
            row["headline"],
        )
    print_table(table)


@app.command()
def show(run: _RUN, storage: _STORAGE = "runs", as_json: _JSON = False) -> None:
    """Show one run: how far it is, its last card, where its report lies."""
    folder = _find(run, storage)
    row = _summary(folder)
    card = folder.card.read_json() if folder.card.is_file() else {}
    if as_json:
        print_json({**row, "card": card})
        return
    for key, value in row.items():
        console.print(f"{key:12} {value}")
    console.print(f"{'report':12} {folder.report}")


@app.command()
def events(run: _RUN, storage: _STORAGE = "runs", as_json: _JSON = False) -> None:
    """Print what happened to a run: starts, checkpoints, faults, evaluations."""
    rows = _find(run, storage).events()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        facts = {k: v for k, v in row.items() if k not in ("time", "event", "images_seen")}
        listed = "  ".join(f"{key}={value}" for key, value in facts.items())
        console.print(
            f"{row['time'][:19]}  {row['images_seen']:>12,}  {row['event']}  {listed}",
        )


@app.command("rm")
def remove(
    run: _RUN,
    storage: _STORAGE = "runs",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a run and everything in it."""
    folder = _find(run, storage)
    if not yes:
        typer.confirm(f"Delete {folder.location} and all its checkpoints?", abort=True)
    folder.location.remove()
    console.print(f"deleted {folder.location}")


def _find(run: str, storage: str) -> RunFolder:
    from distgen.core.errors import UsageError, did_you_mean
    from distgen.core.storage import locate
    from distgen.training.run import RunFolder

    for place in (locate(run), locate(storage) / run):
        if (place / "job.yaml").is_file():
            return RunFolder(place)
    names = [place.name for place in locate(storage).list() if (place / "job.yaml").is_file()]
    raise UsageError(
        f"There is no run {run!r}.",
        where=str(locate(storage)),
        remedy=did_you_mean(run, names) if names else "distgen train JOB starts one",
    )


def _summary(folder: RunFolder) -> dict[str, Any]:
    job = folder.job()
    events = folder.events()
    last = events[-1] if events else {"event": "prepared", "images_seen": 0}
    ticks = folder.metrics()
    headlines = [event["headline"] for event in events if event["event"] == "evaluated"]
    return {
        "name": job.name,
        "family": job.model.family,
        "images_seen": ticks[-1]["images_seen"] if ticks else last["images_seen"],
        "images": job.training.images,
        "state": last["event"],
        "headline": headlines[-1] if headlines else "",
    }
