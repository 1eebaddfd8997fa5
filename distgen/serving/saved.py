"""Files that say which request made them, so that it can be asked again.

A PNG carries its record itself, in a text chunk called `distgen` (ISO/IEC 15948, 11.3.4.3); beside
another file it lies as `NAME.json`.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from distgen.core.config import Config
from distgen.core.errors import UsageError
from distgen.core.storage import Location, sha256_of

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEYWORD = b"distgen\0"


class Record(Config):
    """What made a file, and what came back."""

    model: str
    """The model's name."""
    digest: str
    """SHA-256 of its bundle's manifest."""
    path: str
    """Where it was asked for, such as `/v1/images/generations`."""
    request: dict[str, Any]
    """The request's fields, its seed among them."""
    uploads: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the pictures that were sent along, by field."""
    sha256: tuple[str, ...]
    """Of each picture's bytes as they came."""
    index: int | None = None
    """Which of the request's pictures the file is; None: it shows them all."""
    file: str = ""
    """SHA-256 of the file without its record; empty where there is no file."""


@dataclass(frozen=True)
class Verdict:
    """What came of asking again."""

    problems: tuple[str, ...]
    """What is not as it was, a sentence each; empty where all is."""
    digest: str
    """Of the model that answers now."""
    differing: tuple[int, ...]
    """Pictures of the request that are not what they were."""


def save(place: Location, data: bytes, record: Record) -> None:
    """Write a file, and its record in it or beside it.

    Raises:
        OSError: It cannot be written.
    """
    marked = record.model_copy(update={"file": sha256_of(data)})
    text = json.dumps(marked.model_dump(mode="json")).encode("ascii")
    if data.startswith(_SIGNATURE):
        body = b"tEXt" + _KEYWORD + text
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        place.write_bytes(data[:-12] + chunk + data[-12:])  # before IEND, which has 12 bytes
    else:
        place.write_bytes(data)
        _beside(place).write_bytes(text + b"\n")


def load(place: Location) -> tuple[bytes | None, Record]:
    """A file without its record, and the record; of what `query --json` printed, no file.

    Raises:
        UsageError: There is no such file, or no record of it.
    """
    try:
        data = place.read_bytes()
        plain, text = _taken_apart(data)
        if text is None and not data.lstrip().startswith(b"{"):
            return data, _parsed(_beside(place).read_bytes(), place)
    except OSError as error:
        raise _unknown(place, str(error)) from error
    return (None, _parsed(data, place)) if text is None else (plain, _parsed(text, place))


def verdict(data: bytes | None, record: Record, digest: str, files: Sequence[bytes]) -> Verdict:
    """How a file and its request's new answer agree.

    Args:
        data: The file without its record; None: there is none.
        record: Of the file.
        digest: Of the model that has answered.
        files: The pictures' bytes as they came now.
    """
    problems = []
    if data is not None and record.file != sha256_of(data):
        problems.append("The file was changed after it was saved.")
    if digest != record.digest:
        problems.append(
            f"Another model answers: {digest[:12]}, and it was made by {record.digest[:12]}."
        )
    now = [sha256_of(file) for file in files]
    chosen = range(len(record.sha256)) if record.index is None else [record.index]
    then = dict(zip(chosen, record.sha256, strict=False))
    differing = tuple(i for i, known in then.items() if i >= len(now) or now[i] != known)
    if differing:
        problems.append(f"{len(differing)} of {len(then)} pictures came back as other bytes.")
    return Verdict(tuple(problems), digest, differing)


def _taken_apart(data: bytes) -> tuple[bytes, bytes | None]:
    for at, end in _chunks(data):
        if data[at + 4 : at + 8 + len(_KEYWORD)] == b"tEXt" + _KEYWORD:
            return data[:at] + data[end:], data[at + 8 + len(_KEYWORD) : end - 4]
    return data, None


def _chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each chunk of a PNG begins and ends; of other files none."""
    at = len(_SIGNATURE) if data.startswith(_SIGNATURE) else len(data)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield at, end
        at = end


def _parsed(text: bytes, place: Location) -> Record:
    try:
        value = json.loads(text)
        known = {name: value[name] for name in Record.model_fields if name in value}
        return Record.model_validate(known)
    except (ValueError, TypeError, RecursionError, ValidationError) as error:
        raise _unknown(place, "there is no record in it") from error


def _unknown(place: Location, cause: str) -> UsageError:
    return UsageError(
        "It is not known which request made this.",
        where=str(place),
        cause=cause,
        remedy="--verify with a file that `distgen query` saved, or what its --json printed",
    )


def _beside(place: Location) -> Location:
    return place.parent / f"{place.name}.json"
