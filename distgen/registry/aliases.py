"""Aliases: append-only logs of numbered files, moved by compare-and-set.

Move n of an alias is the file `<n>.json`, made by a hard link, which either makes the whole file or
fails because the number is taken. Of two processes that saw the same last move, one wins and the
other is told. Nothing is ever overwritten, so the log is the alias's history.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt, ValidationError

from distgen.core.config import Config
from distgen.core.errors import DataError, UsageError

_FILE_PATTERN = re.compile(r"^(\d{6,})\.json$")
_MAX_MOVE_BYTES = 4096


class Move(Config):
    """One change of an alias."""

    version: PositiveInt
    """Where the alias points since."""
    action: Literal["promote", "rollback"]
    """Forward to a version, or back to the one before."""
    time: str
    """When, in UTC."""


class AliasMovedError(UsageError):
    """Another process moved the alias first."""


def history(folder: Path) -> list[Move]:
    """All moves of the alias whose log is in `folder`, oldest first; empty where it has none.

    Raises:
        DataError: A file of the log is damaged or missing.
    """
    found = {}
    for path in folder.glob("*.json"):
        match = _FILE_PATTERN.match(path.name)
        if match:
            found[int(match.group(1))] = path
    for number in range(1, len(found) + 1):
        if number not in found:
            raise _damaged(folder, f"move {number} is missing")
    return [_read(found[number]) for number in sorted(found)]


def stack(moves: list[Move]) -> list[int]:
    """The versions that a rollback can go through, the alias's own version last."""
    versions: list[int] = []
    for move in moves:
        if move.action == "rollback":
            del versions[-1:]
        else:
            versions.append(move.version)
    return versions


def compare_and_set(
    folder: Path, version: int, action: Literal["promote", "rollback"], *, expected_moves: int
) -> None:
    """Add a move, if the log still has `expected_moves` of them.

    Raises:
        AliasMovedError: It has more by now: another process moved the alias.
        UsageError: The filesystem cannot make hard links.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    move = Move(version=version, action=action, time=now)
    place = folder / f"{expected_moves + 1:06d}.json"
    aside = folder / f".{place.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(move.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, place)
    except FileExistsError as error:
        raise AliasMovedError(
            f"The alias {folder.name!r} was moved by another process at the same moment.",
            where=str(folder),
            remedy="look at `distgen models ls`, then run the command again",
        ) from error
    except OSError as error:
        raise UsageError(
            f"The alias {folder.name!r} cannot be moved.",
            where=str(folder),
            cause=f"{error.strerror}: the store needs a filesystem with hard links",
            remedy="keep the store on a local disk or NFS: --root PATH",
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def _read(path: Path) -> Move:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_MOVE_BYTES)
        return Move.model_validate(json.loads(data))
    except (OSError, ValueError, ValidationError) as error:
        raise _damaged(path, "it is not a move of an alias") from error


def _damaged(path: Path, cause: str) -> DataError:
    return DataError(
        "The log of an alias is damaged.",
        where=str(path),
        cause=cause,
        remedy="delete the alias's folder and promote the version again",
    )
