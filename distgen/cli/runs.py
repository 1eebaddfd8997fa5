"""`distgen runs`: what has been trained, how far, and what happened on the way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli.console import console, print_json, print_table

if TYPE_CHECKING:
    from distgen.core.storage import Location
    from distgen.training.run import RunFolder

app = typer.Typer(help="List training runs and read their stories.", no_args_is_help=True)

_STORAGE = Annotated[str, typer.Option(help="Path or URL of the folder that holds runs.")]
_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_RUN = Annotated[str, typer.Argument(help="A run's folder, or its name below --storage.")]
_UNREADABLE = "unreadable"


@app.command("ls")
def list_runs(storage: _STORAGE = "runs", as_json: _JSON = False) -> None:
    """List the runs below a folder: how far each is, and whether it is running."""
    from rich.table import Table

    from distgen.core.storage import locate

    rows = [_row(place) for place in _runs_below(locate(storage))]
    if as_json:
        print_json(rows)
        return
    if not rows:
        console.print(f"No runs in {storage}; start one with: distgen train jobs/digits-gan.yaml")
        return
    table = Table("run", "family", "images seen", "of", "state", "last heard", "card", box=None)
    for row in rows:
        table.add_row(
            row["name"],
            row["family"],
            f"{row['images_seen']:,}",
            f"{row['images']:,}",
            row["state"],
            _ago(row["silent_s"]),
            row["headline"],
        )
    print_table(table)


@app.command()
def show(run: _RUN, storage: _STORAGE = "runs", as_json: _JSON = False) -> None:
    """Show one run: how far it is, its checkpoints, its last card, where its report lies."""
    from distgen.training import checkpoint

    folder = _find(run, storage)
    row = _summary(folder)
    card = folder.card.read_json() if folder.card.is_file() else {}
    kept = [int(place.name) for place in checkpoint.complete(folder.checkpoints)]
    row |= {"checkpoints": kept, "location": str(folder.location)}
    if as_json:
        print_json({**row, "card": card})
        return
    shown = row | {
        "silent_s": _ago(row["silent_s"]),
        "images_seen": f"{row['images_seen']:,}",
        "images": f"{row['images']:,}",
        "checkpoints": ", ".join(f"{clock:,}" for clock in kept) or "none yet",
    }
    named = {"silent_s": "last heard", "last_event": "last event", "images_seen": "images seen"}
    for key, value in shown.items():
        console.print(f"{named.get(key, key):12} {value}")
    there = "" if folder.report.is_file() else " (not written yet)"
    console.print(f"{'report':12} {folder.report}{there}")


@app.command()
def events(
    run: _RUN,
    storage: _STORAGE = "runs",
    last: Annotated[int | None, typer.Option(help="Only so many, the newest.", min=1)] = None,
    as_json: _JSON = False,
) -> None:
    """Print what happened to a run: starts, checkpoints, faults, evaluations."""
    folder = _find(run, storage)
    rows = folder.events()
    rows = rows[-last:] if last else rows
    if as_json:
        print_json(rows)
        return
    if not rows:
        console.print(f"Nothing has happened to {folder.location} yet.")
    for row in rows:
        facts = {k: v for k, v in row.items() if k not in ("time", "event", "images_seen")}
        listed = "  ".join(f"{key}={value}" for key, value in facts.items())
        console.print(
            f"{row['time'][:19]}  {row['images_seen']:>12,}  {row['event']}  {listed}".rstrip()
        )


@app.command("rm")
def remove(
    run: _RUN,
    storage: _STORAGE = "runs",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Delete it even where it may be running.")
    ] = False,
    as_json: _JSON = False,
) -> None:
    """Delete a run and everything in it; one that may be running is refused."""
    place = _place_of(run, storage)
    row = _row(place)
    if row["state"] == "running" and not force:
        _refuse_running(place, row)
    if not yes:
        typer.confirm(f"Delete {place} and all its checkpoints?", abort=True, err=True)
    # Without its job file the folder is no run any more, however far the rest of this gets.
    (place / "job.yaml").remove()
    place.remove()
    if as_json:
        print_json({"deleted": str(place)})
    else:
        console.print(f"deleted {place}")


def _refuse_running(place: Location, row: dict[str, Any]) -> None:
    from distgen.core.errors import UsageError

    raise UsageError(
        f"Run {row['name']!r} may be running.",
        where=str(place),
        cause=f"it was heard of {_ago(row['silent_s'])}, and has not said that it ended",
        remedy="stop it first (Ctrl-C where it was started, or distgen jobs stop); "
        "where you know that it is gone: --force",
    )


def _runs_below(storage: Location) -> list[Location]:
    return [place for place in storage.list() if (place / "job.yaml").is_file()]


def _place_of(run: str, storage: str) -> Location:
    from distgen.core.errors import UsageError, did_you_mean
    from distgen.core.storage import locate

    for place in (locate(run), locate(storage) / run):
        if (place / "job.yaml").is_file():
            return place
    names = [place.name for place in _runs_below(locate(storage))]
    raise UsageError(
        f"There is no run {run!r}.",
        where=str(locate(storage)),
        remedy=did_you_mean(run, names) if names else "distgen train JOB starts one",
    )


def _find(run: str, storage: str) -> RunFolder:
    from distgen.training.run import RunFolder

    return RunFolder(_place_of(run, storage))


def _row(place: Location) -> dict[str, Any]:
    """A run's summary, or what can be said of one whose job file cannot be read."""
    from distgen.core.errors import UsageError
    from distgen.training.run import RunFolder

    try:
        return _summary(RunFolder(place))
    except UsageError as error:
        return {
            "name": place.name,
            "family": "",
            "images_seen": 0,
            "images": 0,
            "state": _UNREADABLE,
            "last_event": "",
            "silent_s": None,
            "headline": "",
            "cause": str(error),
        }


def _summary(folder: RunFolder) -> dict[str, Any]:
    from distgen.training.state import state_of

    job = folder.job()
    events = folder.events()
    points = folder.metrics()
    state = state_of(events, points, patience_s=job.scaling.patience_s, now=time.time())
    ticks = [row for row in points if row["stage"] == "train"]
    seen = [int(row["images_seen"]) for row in (*points[-1:], *events[-1:])]
    headlines = [event["headline"] for event in events if event["event"] == "evaluated"]
    return {
        "name": job.name,
        "family": job.model.family,
        "images_seen": max(seen, default=0),
        "images": job.training.images,
        "state": state.word,
        "last_event": events[-1]["event"] if events else "prepared",
        "silent_s": state.silent_s,
        "images_per_s": round(ticks[-1]["images_per_s"], 1) if ticks else 0.0,
        "headline": headlines[-1] if headlines else "",
    }


def _ago(seconds: float | None) -> str:
    """How long something is past."""
    if seconds is None:
        return "never"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
