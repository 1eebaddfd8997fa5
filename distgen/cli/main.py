"""`distgen`: the commands, and how their errors reach the person who typed them."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

import distgen
from distgen.cli import (
    bench,
    cluster,
    config,
    data,
    demo,
    doctor,
    evaluate,
    generate,
    jobs,
    models,
    plan,
    query,
    runs,
    sample,
    serve,
    train,
    tune,
)
from distgen.cli.console import err_console, strong
from distgen.core.errors import EXIT_FAILED, EXIT_USAGE, DistgenError, UsageError

app = typer.Typer(
    name="distgen",
    help="Train image generators on a Ray cluster and serve the best of them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an error.", envvar="DISTGEN_DEBUG"),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Train image generators on a Ray cluster and serve the best of them."""
    if version:
        print(distgen.__version__)
        raise typer.Exit
    os.environ["DISTGEN_DEBUG"] = "1" if debug else ""


_MAKE, _FIND, _USE, _RUN = "Data", "Train and search", "Models and endpoints", "Cluster and tools"

app.add_typer(data.app, name="data", rich_help_panel=_MAKE)
app.command("demo", rich_help_panel=_MAKE)(demo.demo)
app.command("train", rich_help_panel=_FIND)(train.train)
app.command("evaluate", rich_help_panel=_FIND)(evaluate.evaluate)
app.command("tune", rich_help_panel=_FIND)(tune.tune)
app.add_typer(runs.app, name="runs", rich_help_panel=_FIND)
app.add_typer(models.app, name="models", rich_help_panel=_USE)
app.command("serve", rich_help_panel=_USE)(serve.serve)
app.command("sample", rich_help_panel=_USE)(sample.sample)
app.command("query", rich_help_panel=_USE)(query.query)
app.add_typer(serve.endpoint_app, name="endpoint", rich_help_panel=_USE)
app.command("generate", rich_help_panel=_USE)(generate.generate)
app.command("submit", rich_help_panel=_RUN)(jobs.submit)
app.add_typer(jobs.app, name="jobs", rich_help_panel=_RUN)
app.add_typer(cluster.app, name="cluster", rich_help_panel=_RUN)
app.command("doctor", rich_help_panel=_RUN)(doctor.doctor)
app.command("plan", rich_help_panel=_RUN)(plan.plan)
app.add_typer(config.app, name="config", rich_help_panel=_RUN)
app.add_typer(bench.app, name="bench", rich_help_panel=_RUN)


def main() -> None:
    """Run the command line; errors become a message on stderr and an exit code."""
    # Ray asks its user for statistics unless told not to; we do not phone home.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except (KeyboardInterrupt, typer.Abort):
        err_console.print("Interrupted.")
        sys.exit(130)
    except Exception as error:
        # A wrong flag: Typer's own copy of click, or the package, whichever this version uses.
        show = getattr(error, "show", None)
        if callable(show):
            show()
            sys.exit(getattr(error, "exit_code", EXIT_USAGE))
        if os.environ.get("DISTGEN_DEBUG"):
            raise
        sys.exit(report(error))


def report(error: Exception) -> int:
    """Print an error as its user should see it, and return the exit code."""
    if isinstance(error, OSError) and error.errno in _PLACES:
        error = _about_place(error)
    if isinstance(error, DistgenError):
        err_console.print(strong("error:", f" {error.what}", style="red"))
        for label, text in (
            ("where", error.where),
            ("cause", error.cause),
            ("try", error.remedy),
        ):
            if text:
                err_console.print(f"  {label}: {text}")
        return error.exit_code
    err_console.print(f"unexpected {type(error).__name__}: {error}")
    err_console.print("  try: the same command with `distgen --debug ...` for the traceback")
    return EXIT_FAILED


# What the system says about a file or folder that was named, and what to do about it.
_PLACES = {
    errno.EACCES: "choose a place that you may use, or get the right to it: ls -ld",
    errno.EPERM: "choose a place that you may use, or get the right to it: ls -ld",
    errno.EROFS: "choose a place that can be written",
    errno.ENOENT: "check the path; the folder above must exist or be one that can be made",
    errno.EISDIR: "give the path of a file; this is a folder",
    errno.ENOTDIR: "choose another path; a part of this one is a file",
    errno.EEXIST: "choose another path; something else is there",
    errno.ENOSPC: "make room, and give the same command again: df -h",
    errno.EDQUOT: "make room in your quota, and give the same command again",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "choose another path; the links in this one lead in a circle",
}


def _about_place(error: OSError) -> UsageError:
    code = error.errno or 0
    # A file is written aside first: the second name is the one that was asked for. pyarrow gives
    # its sentence in place of the system's, and the path in it.
    path = error.filename2 or error.filename
    said = os.strerror(code)
    return UsageError(
        f"A file or folder cannot be used: {said[:1].lower()}{said[1:]}.",
        where=str(path) if path else None,
        cause=None if path else error.strerror,
        remedy=_PLACES[code],
    )
