"""`distgen config`: what a job file may say, and what one says once resolved."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from distgen.cli.console import console

app = typer.Typer(help="Look at job files and at what they may contain.", no_args_is_help=True)

_JOB = Annotated[str, typer.Argument(metavar="JOB", help="A job file.")]
_OVERRIDES = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, section.key=value.")
]


@app.command()
def show(job_file: _JOB, overrides: _OVERRIDES = None) -> None:
    """Print a job file with every default filled in; fails as the job itself would."""
    from distgen.cli.kinds import read_job
    from distgen.core.config import dump_yaml

    print(dump_yaml(read_job(job_file, overrides or [])), end="")


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="A job kind: train or tune.")] = "train",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON Schema, as editors read it.")
    ] = False,
) -> None:
    """Print every key of a job file with its type, default and meaning."""
    from rich.text import Text

    from distgen.cli.kinds import schema_of
    from distgen.core.config import describe

    model = schema_of(kind)
    if as_json:
        print(json.dumps(model.model_json_schema(), indent=2))
        return
    for line in describe(model):
        indent = "  " * line.depth
        default = f" = {line.default}" if line.default else ""
        console.print(Text.assemble(indent, (line.key, "bold"), ": ", (line.type, "cyan"), default))
        if line.help:
            console.print(f"{indent}    {line.help}", style="dim")


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="A job file.")],
    second: Annotated[str, typer.Argument(help="Another job file.")],
) -> None:
    """Print the keys in which two resolved job files differ."""
    from distgen.cli.kinds import read_job
    from distgen.core.config import flatten

    before, after = (flatten(read_job(f, []).model_dump(mode="json")) for f in (first, second))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            console.print(f"{key}: {before.get(key)!r} -> {after.get(key)!r}")
