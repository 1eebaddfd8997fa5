"""`distgen tune`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from distgen.cli.console import console, print_json, print_table, strong
from distgen.cli.progress import LiveDisplay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distgen.tune.folder import Trial
    from distgen.tune.job import TuneJob


def tune(
    job_file: Annotated[str, typer.Argument(metavar="JOB", help="A job file of kind tune.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as search.trials=20."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster's address; without it, one is started for this search."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a search that was started before.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome as one JSON object.")
    ] = False,
) -> None:
    """Search for the best values of a train job's keys.

    Trials run side by side as far as the cluster has room, and the worse ones are ended early.
    Ctrl-C lets them write checkpoints and ends with exit code 75; --resume goes on from there.
    """
    from distgen.cli.kinds import read_job
    from distgen.tune import tuner

    job: TuneJob = read_job(job_file, overrides or [], "tune")
    with SearchDisplay(job) as display:
        outcome = tuner.run(
            job,
            address=address,
            resume=resume,
            on_trials=display.show,
            on_message=display.say,
        )
    if as_json:
        print_json(asdict(outcome))
        return
    print_table(trial_table(job, outcome.trials))
    best = outcome.best
    console.print()
    console.print(strong(job.name, f": trial {best.number} is the best."))
    console.print(f"  report   {outcome.folder}/report.html")
    console.print(f"  trials   {outcome.folder}/trials.parquet")
    console.print(f"  next     distgen train {outcome.best_job}")


class SearchDisplay(LiveDisplay):
    """The trials as a table that changes in place, or their number and the best as a line."""

    def __init__(self, job: TuneJob) -> None:
        super().__init__(job.name, plain_every_s=15.0, transient=True)
        self._job = job

    def show(self, trials: list[Trial]) -> None:
        """Show how the trials stand."""
        self.update(trial_table(self._job, trials), summary(self._job, trials))


def summary(job: TuneJob, trials: Sequence[Trial]) -> str:
    """How a search stands, in one line."""
    from distgen.tune.folder import rank

    counts = {
        word: sum(trial.status == word for trial in trials)
        for word in ("running", "finished", "stopped", "failed", "waiting")
    }
    parts = [f"{count} {word}" for word, count in counts.items() if count]
    ranked = rank(list(trials), job.mode)
    if ranked:
        parts.append(f"best {job.metric} {ranked[0].value:.4g} (trial {ranked[0].number})")
    return " \u00b7 ".join(parts)


def trial_table(job: TuneJob, trials: Sequence[Trial]) -> Table:
    """The trials with their values, the best first and marked."""
    from distgen.tune.folder import rank
    from distgen.tune.report import show

    table = Table(box=None, pad_edge=False)
    better = "min" if job.mode == "min" else "max"
    for heading in ("trial", *job.search.space, f"{job.metric} ({better})", "images", "status"):
        table.add_column(heading)
    ranked = rank(list(trials), job.mode)
    for trial in [*ranked, *(trial for trial in trials if trial.value is None)]:
        length = job.train.training.images
        share = f"{trial.images_seen:,} ({100 * trial.images_seen // length} %)"
        values = [show(trial.point.get(key)) for key in job.search.space]
        style = "bold green" if ranked and trial is ranked[0] else None
        cells = (str(trial.number), *values, show(trial.value), share, trial.status)
        table.add_row(*cells, style=style)
    return table
