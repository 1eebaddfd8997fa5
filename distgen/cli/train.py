"""`distgen train`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli.console import console, err_console, print_json, strong

if TYPE_CHECKING:
    from distgen.launch.turns import Turn
    from distgen.training.job import TrainJob
    from distgen.training.outcome import Outcome

_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's mark of a process that a submitted job is


def train(
    job_file: Annotated[str, typer.Argument(metavar="JOB", help="A job file of kind train.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as training.images=100000."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster's address; without it, one is started for this run."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Move an existing run of this name aside, start anew.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would be done, and end.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome as one JSON object.")
    ] = False,
) -> None:
    """Train a model. The same command again resumes an unfinished run.

    Ctrl-C writes a checkpoint and ends with exit code 75; the same command goes on from there.
    """
    from distgen.cli.kinds import parse_job
    from distgen.core.config import override, read_job_file

    raw = override(read_job_file(job_file), overrides or [])
    with ExitStack() as stack:
        turn = None if dry_run else stack.enter_context(_submitted_turn(raw, job_file))
        job = parse_job(raw, job_file, "train")  # from here on torch is in memory
        if dry_run:
            _describe(job, fresh=fresh)
            return
        outcome = run(job, address=address, fresh=fresh, turn=turn)
    if as_json:
        print_json(outcome.__dict__)
        return
    run_path = outcome.run
    console.print()
    console.print(strong(job.name, f" finished at {outcome.images_seen:,} images."))
    if outcome.images_seen < job.training.images:
        console.print("  ended early: the quality card did not improve any more")
    console.print(f"  report   {run_path}/report.html")
    console.print(f"  bundle   {run_path}/bundle")
    console.print(f"  next     distgen models promote {run_path}")


@contextmanager
def _submitted_turn(raw: dict[str, Any], job_file: str) -> Iterator[Turn | None]:
    """A submitted job's place in line on its cluster, once it is its turn.

    A job that waits for others does so before it has loaded what training needs: twenty of them
    would take gigabytes, and the cores' time, from the one that trains.
    """
    if not os.environ.get(_SUBMITTED):
        yield None
        return
    from distgen.core.config import parse
    from distgen.launch.cluster import connect
    from distgen.launch.turns import Turn, shares, stop_on_term
    from distgen.training.scaling import ScalingConfig

    scaling = parse(ScalingConfig, raw.get("scaling") or {}, job_file)
    if scaling.workers == 0:
        yield None
        return
    name = raw.get("name")
    turn = Turn(scaling, lambda text: err_console.print(f"{name}  {text}"))
    with connect() as connection, turn:
        if shares(connection, connection.room()):
            with stop_on_term() as stopped:
                turn.wait(stopped)
        yield turn


def run(
    job: TrainJob,
    *,
    address: str | None = None,
    fresh: bool = False,
    turn: Turn | None = None,
) -> Outcome:
    """Train `job` where its scaling says, with a display; used by `train` and `demo`."""
    from distgen.cli.progress import TrainingDisplay
    from distgen.core.errors import UsageError
    from distgen.training.run import RunFolder

    folder, wanted = RunFolder(job.location), job.training
    if not fresh and folder.is_finished(wanted.images, wanted.early_stop):
        ended = folder.end().images_seen
        early = "" if ended >= wanted.images else ", where it was stopped early"
        err_console.print(f"{job.name} has reached {ended:,} images already{early}.")
    if job.scaling.workers == 0:
        from distgen.training.local import train_here

        if address is not None:
            raise UsageError(
                "scaling.workers=0 trains in this process, so --address has no effect.",
                remedy="leave --address out, or set scaling.workers to 1 or more",
            )
        with TrainingDisplay(job.name) as display:
            return train_here(job, on_tick=display, fresh=fresh)

    from distgen.launch import train as launch

    with TrainingDisplay(job.name) as display:
        return launch.run(
            job,
            address=address,
            on_tick=display,
            on_message=display.say,
            fresh=fresh,
            turn=turn,
        )


def _describe(job: TrainJob, *, fresh: bool) -> None:
    from distgen.data import has_split
    from distgen.models import sketch_networks
    from distgen.training.run import RunFolder, open_pictures, refuse_if_different

    pictures = open_pictures(job)
    if not fresh:
        refuse_if_different(RunFolder(job.location), job, pictures.fingerprint)
    spec = pictures.spec
    networks = sketch_networks(job.model, spec)
    steps = -(-job.training.images // job.training.batch_size)
    epochs = job.training.images / pictures.num_samples
    held_out = "a test split" if has_split(job.data.shards, "test") else "no test split"
    console.print(strong(job.name, f" would be trained into {job.location}"))
    console.print(
        f"  data      {pictures.num_samples:,} {spec.samples_text}, "
        f"{spec.num_classes} classes, {held_out}"
    )
    for name, network in networks.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        console.print(f"  network   {name}: {count:,} parameters")
    console.print(f"  length    {steps:,} steps of {job.training.batch_size}, {epochs:.1f} epochs")
    scaling = job.scaling
    ranks = " to ".join(str(size) for size in dict.fromkeys((scaling.fewest, scaling.most)))
    where = f"{ranks} Ray Train workers" if scaling.workers else "this process"
    console.print(f"  where     {where}")
