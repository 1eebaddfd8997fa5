"""`distgen submit` and `distgen jobs`: job files on a cluster."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from distgen.cli.console import console, err_console, print_json, print_table, strong
from distgen.core.errors import UsageError

if TYPE_CHECKING:
    from distgen.launch.submit import JobInfo, Jobs
    from distgen.launch.upload import Upload

app = typer.Typer(help="Look at and stop jobs on a cluster.", no_args_is_help=True)

_ADDRESS = Annotated[
    str | None,
    typer.Option(
        help="The cluster's dashboard, such as http://head:8265; without it, the cluster that "
        "`distgen cluster up` started."
    ),
]
_ID = Annotated[str, typer.Argument(metavar="ID", help="A job's id, as `distgen jobs ls` shows.")]
_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def submit(
    job_file: Annotated[
        str, typer.Argument(metavar="JOB", help="A job file: train, tune or serve.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as training.images=100000."),
    ] = None,
    address: _ADDRESS = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show its output, and end with its exit code.")
    ] = False,
    upload: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Send this folder's files too, and run the job in it: a checkout with your own "
            "distgen/ runs in place of the cluster's.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Of --upload: leave out, as in .gitignore; again for more."
        ),
    ] = None,
    as_json: _JSON = False,
) -> None:
    """Run a job file on a cluster.

    The file is checked here, and is all that is uploaded unless --upload names a folder, of which
    .git, runs, shards, models, virtual environments, links, keys and what .gitignore and
    .distgenignore name stay here. Relative paths in the job file are made absolute here, and must
    be there on the cluster too. Credentials are those of the cluster's nodes. A job that finds the
    cluster taken waits for its turn; the same job again goes on where it stopped.
    """
    from distgen.cli.kinds import read_job
    from distgen.core.config import dump_yaml
    from distgen.launch.submit import Jobs, is_on_this_machine

    job = _with_absolute_paths(read_job(job_file, overrides or []))
    files = _chosen(upload, exclude or [])
    jobs = Jobs(address)
    if is_on_this_machine(jobs.url):
        _require_inputs(job)
    alone = job.kind == "train" and job.scaling.workers == 0
    job_id = jobs.submit(
        dump_yaml(job),
        name=job.name,
        kind=job.kind,
        storage=job.storage,
        upload=files,
        cpus=job.scaling.cpus_per_worker if alone else 0,
        gpus=job.scaling.gpus_per_worker if alone else 0,
        on_packed=lambda size: None if as_json else _tell_upload(files, size),
    )
    if as_json:
        print_json({"id": job_id, "address": jobs.url})
    else:
        console.print(strong(job_id, f" is submitted to {jobs.url}"))
        for key, place in _places(job).items():
            console.print(f"  {key:<12}{place}")
        if not follow:
            console.print(f"  follow      distgen jobs logs {job_id} --follow{_option(address)}")
            console.print(f"  stop        distgen jobs stop {job_id}{_option(address)}")
    if follow:
        _follow(jobs, job_id, address)


@app.command()
def ls(address: _ADDRESS = None, as_json: _JSON = False) -> None:
    """List the cluster's jobs, newest first."""
    from distgen.launch.submit import Jobs

    found = Jobs(address).list()
    if as_json:
        print_json([asdict(job) for job in found])
        return
    if not found:
        console.print("No job has been submitted to this cluster.  (distgen submit JOB)")
        return
    print_table(_table(found))


@app.command()
def status(job_id: _ID, address: _ADDRESS = None, as_json: _JSON = False) -> None:
    """Say how one job stands."""
    from distgen.launch.submit import Jobs

    job = Jobs(address).info(job_id)
    if as_json:
        print_json(asdict(job))
        return
    console.print(strong(job.id, f"  {job.status}"))
    console.print(f"  kind      {job.kind or 'not one of distgen'}")
    console.print(f"  started   {_when(job.started)}")
    console.print(f"  time      {_duration(job)}")
    if job.exit_code is not None:
        console.print(f"  exit      {job.exit_code}")
    if job.status == "FAILED" and job.message:
        console.print(f"  message   {job.message.strip()}")


@app.command()
def logs(
    job_id: _ID,
    address: _ADDRESS = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends, with its exit code.")
    ] = False,
) -> None:
    """Print what a job has printed."""
    from distgen.launch.submit import Jobs

    jobs = Jobs(address)
    if follow:
        _follow(jobs, job_id, address)
        return
    _write(jobs.logs(job_id))


@app.command()
def stop(
    job_id: _ID,
    address: _ADDRESS = None,
    wait: Annotated[
        bool, typer.Option(help="Wait until it has written its checkpoint and ended.")
    ] = True,
) -> None:
    """Stop a job: it writes a checkpoint, and the same job file goes on from there."""
    from distgen.launch.submit import Jobs

    jobs = Jobs(address)
    if not jobs.stop(job_id):
        console.print(f"{job_id} had ended already.")
        return
    if wait:
        with err_console.status(Text(f"waiting for {job_id} to write its checkpoint ...")):
            jobs.wait(job_id)
    console.print(f"{job_id} is {'stopped' if wait else 'stopping'}.")
    if wait:
        console.print("  go on     distgen submit, with the same job file")


def _table(found: list[JobInfo]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("id", overflow="fold")  # it is what other commands ask for
    for heading in ("kind", "status", "started", "time", "exit"):
        table.add_column(heading, no_wrap=True)
    for job in found:
        code = "" if job.exit_code is None else str(job.exit_code)
        table.add_row(job.id, job.kind, job.status, _when(job.started), _duration(job), code)
    return table


def _follow(jobs: Jobs, job_id: str, address: str | None) -> None:
    try:
        job = jobs.follow(job_id, _write)
    except KeyboardInterrupt:
        err_console.print(f"\n{job_id} goes on without you.")
        err_console.print(f"  follow    distgen jobs logs {job_id} --follow{_option(address)}")
        err_console.print(f"  stop      distgen jobs stop {job_id}{_option(address)}")
        raise
    if job.outcome:
        err_console.print(f"{job_id} ended as {job.status}.")
        if job.exit_code is None and job.message:
            err_console.print(job.message.strip())
        raise typer.Exit(job.outcome)


def _chosen(folder: Path | None, excludes: list[str]) -> Upload | None:
    from distgen.launch.upload import choose, require_small

    if folder is None:
        if excludes:
            raise UsageError("--exclude is about --upload, which is not given.")
        return None
    chosen = choose(folder, excludes)
    require_small(chosen)
    return chosen


def _tell_upload(files: Upload | None, packed: int) -> None:
    """What is about to be sent, on stderr: the answer is what comes back."""
    from distgen.launch.upload import LARGE_BYTES, in_words

    if files is None:
        err_console.print(f"  sends       the job file alone, {in_words(packed)}")
        return
    err_console.print(
        f"  sends       the job file and {len(files.files)} files of {files.folder}, "
        f"{in_words(files.bytes)}, {in_words(packed)} packed"
    )
    if files.bytes >= LARGE_BYTES:
        for name, size in files.largest():
            err_console.print(f"  large       {name}, {in_words(size)}")
    if files.links:
        shown = ", ".join(files.links[:3]) + (", ..." if len(files.links) > 3 else "")
        err_console.print(f"  stay here   {len(files.links)} links: {shown}")


def _with_absolute_paths(job: Any) -> Any:
    if job.kind == "tune":
        from distgen.tune.job import with_absolute_paths

        return with_absolute_paths(job)
    if job.kind == "serve":
        from distgen.serving import job as serving

        return serving.with_absolute_paths(job)
    from distgen.launch.train import with_absolute_paths as absolute

    return absolute(job)


def _places(job: Any) -> dict[str, str]:
    if job.kind == "serve":
        return {"models": ", ".join(job.all_models), "listens on": job.storage}
    train = job.train if job.kind == "tune" else job
    return {"shards": train.data.shards, "storage": job.storage}


def _require_inputs(job: Any) -> None:
    """On this machine a missing shard set is found before the job is sent, and so is a model."""
    if job.kind == "serve":
        from distgen.serving.making.references import references

        references(job.all_models, job.root)
        return
    from distgen.data import open_shard_set

    open_shard_set(_places(job)["shards"], "train")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _option(address: str | None) -> str:
    return f" --address {address}" if address else ""


def _when(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "-"


def _duration(job: JobInfo) -> str:
    if job.started is None:
        return "-"
    seconds = int((job.ended or time.time()) - job.started)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
