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

from pydantic import Field, PositiveInt, ValidationError

from distgen.core.config import Config
from distgen.core.errors import DataError, UsageError

_FILE_PATTERN = re.compile(r"^(\d{6,})\.json$")
_MAX_MOVE_BYTES = 4096

Action = Literal["promote", "rollback", "end"]


class Move(Config):
    """One change of an alias."""

    version: PositiveInt
    """Where the alias points since."""
    action: Action
    """Forward to a version, back to the one before, or the end of the alias."""
    time: str
    """When, in UTC."""
    share: float | None = Field(default=None, gt=0, le=1)
    """The share of a model's requests that a version on trial answers; None: no trial."""


class AliasMovedError(UsageError):
    """Another process moved the alias first."""


def history(folder: Path) -> list[Move]:
    """All moves of the alias whose log is in `folder`, oldest first; empty where it has none.

    Raises:
        DataError: A file of the log is damaged or missing.
    """
    # By number: a listing made while files are added may show a later one and miss an earlier.
    return [_read(_place(folder, number)) for number in range(1, _newest(folder) + 1)]


def last(folder: Path) -> Move | None:
    """Where the alias stands, without reading its history; None where it stands nowhere.

    Raises:
        DataError: The newest file of the log is damaged.
    """
    number = _newest(folder)
    move = _read(_place(folder, number)) if number else None
    return None if move is None or move.action == "end" else move


def stack(moves: list[Move]) -> list[int]:
    """The versions that a rollback can go through, the alias's own version last."""
    versions: list[int] = []
    for move in moves:
        if move.action == "end":
            versions.clear()
        elif move.action == "rollback":
            del versions[-1:]
        else:
            versions.append(move.version)
    return versions


def compare_and_set(
    folder: Path,
    version: int,
    action: Action,
    *,
    expected_moves: int,
    share: float | None = None,
) -> None:
    """Add a move, if the log still has `expected_moves` of them.

    Raises:
        AliasMovedError: It has more by now: another process moved the alias.
        UsageError: The filesystem cannot make hard links.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    move = Move(version=version, action=action, time=now, share=share)
    place = _place(folder, expected_moves + 1)
    aside = folder / f".{place.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(move.model_dump_json(exclude_none=True) + "\n")
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


def _place(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


def _newest(folder: Path) -> int:
    """The number of the last move; 0 where there is none."""
    matches = (_FILE_PATTERN.match(path.name) for path in folder.glob("*.json"))
    return max((int(match.group(1)) for match in matches if match), default=0)


def _read(path: Path) -> Move:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_MOVE_BYTES)
        return Move.model_validate(json.loads(data))
    except FileNotFoundError as error:
        raise _damaged(path.parent, f"move {int(path.stem)} is missing") from error
    except (OSError, ValueError, ValidationError) as error:
        raise _damaged(path, "it is not a move of an alias") from error


def _damaged(path: Path, cause: str) -> DataError:
    return DataError(
        "The log of an alias is damaged.",
        where=str(path),
        cause=cause,
        remedy="delete the alias's folder and promote the version again",
    )
