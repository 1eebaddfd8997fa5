"""`distgen endpoint keys`: who may use an endpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from distgen.cli.console import console, print_json, strong

keys_app = typer.Typer(help="Make, list and revoke keys of endpoints.", no_args_is_help=True)

_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_FILE = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="The file of keys; by default ~/.config/distgen/keys.json."),
]
_NAME = Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what for.")]


@keys_app.command("add")
def keys_add(
    name: _NAME,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What it opens: `generate` (default) or `admin` (the metrics); give it twice for "
            "both."
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="N/min", help="Pictures that each replica gives it in a minute; else no limit."
        ),
    ] = None,
    file: _FILE = None,
    as_json: _JSON = False,
) -> None:
    """Make a key and print it, this once; the file keeps only its hash."""
    from distgen.serving.http.gate.keyfile import add

    path = _path(file)
    key = add(path, name, tuple(scope or ("generate",)), _per_minute(rate))
    if as_json:
        print_json({"name": name, "key": key, "file": str(path)})
        return
    console.print(strong(name, " has this key, which is not shown again:"))
    print(key)  # the one thing that must come out whole, however narrow the terminal
    console.print(f"  serve    distgen serve MODEL --keys {path}")
    console.print("  use      DISTGEN_API_KEY in the environment of distgen query; others send it")
    console.print("           as: Authorization: Bearer KEY")


@keys_app.command("ls")
def keys_ls(file: _FILE = None, as_json: _JSON = False) -> None:
    """List the keys of a file."""
    from distgen.serving.http.gate.keyfile import read

    path = _path(file)
    keys = read(path).keys
    if as_json:
        print_json(
            {
                "file": str(path),
                "keys": [key.model_dump(exclude={"salt", "sha256"}) for key in keys],
            }
        )
        return
    if not keys:
        console.print(f"{path} holds no keys; add one with: distgen endpoint keys add NAME")
    for key in keys:
        rate = f"{key.per_minute}/min" if key.per_minute else "no limit"
        console.print(f"{key.name}  {', '.join(key.scopes)}  {rate}  {key.created}")


@keys_app.command("revoke")
def keys_revoke(name: _NAME, file: _FILE = None, as_json: _JSON = False) -> None:
    """Take a key away; endpoints notice within a second, without a restart."""
    from distgen.serving.http.gate.keyfile import revoke

    path = _path(file)
    revoke(path, name)
    if as_json:
        print_json({"revoked": name, "file": str(path)})
    else:
        console.print(f"{name} no longer opens endpoints with {path}.")


def key_to_send(file: str | None) -> str | None:
    """The key for an endpoint: a file's, or the environment's. Never an argument's value, which
    every user of the machine sees in the list of processes.

    Raises:
        UsageError: The file cannot be read, or holds no key.
    """
    from distgen.core.errors import UsageError

    if file is None:
        return os.environ.get("DISTGEN_API_KEY", "").strip() or None
    try:
        with Path(file).expanduser().open(encoding="utf-8") as opened:
            key = opened.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "The key cannot be read.", where=file, cause=str(error), remedy="--key-file FILE"
        ) from error
    if not key:
        raise UsageError("There is no key in this file.", where=file)
    return key


def _path(file: str | None) -> Path:
    from distgen.serving.http.gate.keyfile import default_path

    return default_path() if file is None else Path(file).expanduser().absolute()


def _per_minute(rate: str | None) -> int | None:
    from distgen.core.errors import UsageError

    if rate is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,8})/min", rate.strip())
    if found is None:
        raise UsageError(
            f"A rate cannot be {rate!r}.",
            where="--rate",
            remedy="pictures in a minute, such as --rate 60/min",
        )
    return int(found[1])
