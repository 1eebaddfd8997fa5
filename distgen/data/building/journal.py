"""What a build that was killed has done already, so that the same build goes on from there.

A small file for each finished shard, in a folder that goes when the set is whole. Every one names
the build that wrote it: its options and its source, file by file with size and time of change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from distgen.core.storage import Location
from distgen.data.building.pack import FinishedShard, replacing
from distgen.data.building.sources import Item
from distgen.data.building.sources.runs import Lined
from distgen.data.index import ShardEntry

JOURNAL_NAME = ".unfinished"

_CONVERTERS = ("distgen", "pillow", "simplejpeg", "webdataset")  # what the bytes depend on


@dataclass
class Step:
    """What happened from the end of one shard to the end of the next."""

    items: int = 0
    """Items of the split that were done by then."""
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each picture that is not in the set."""
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    """Path of each picture that came before, and of the one that it is the same as."""
    seen: dict[str, str] = field(default_factory=dict)
    """Path of each picture that did not come before, by the digest of its content."""


class Journal:
    """The finished shards of one build.

    Args:
        place: The folder of the set.
        build: What `digest_of` says of the build.
    """

    def __init__(self, place: Location, build: str) -> None:
        self._place = place
        self._folder = place / JOURNAL_NAME
        self._build = build

    def add(self, split: str | None, finished: FinishedShard, step: Step) -> None:
        """Remember a shard; everything that it holds is stored by now."""
        content = {
            "build": self._build,
            "shard": finished.entry.model_dump(mode="json"),
            "rows": finished.rows,
            "step": asdict(step),
        }
        # Escapes keep file names that are no UTF-8.
        place = self._folder.make_dir() / f"{split or 'shard'}-{finished.entry.name}.json"
        place.write_bytes(json.dumps(content).encode())

    def steps(self, split: str | None) -> list[tuple[FinishedShard, Step]]:
        """The shards of a split from the first one on that this build has finished."""
        found: list[tuple[FinishedShard, Step]] = []
        prefix = f"{split or 'shard'}-"
        for file in self._folder.list():
            if not file.name.startswith(prefix):
                continue
            known = self._read(file)
            if known is None:
                break
            entry = ShardEntry.model_validate(known["shard"])
            tar = (self._place / split if split else self._place) / entry.name
            number = int(entry.name.rpartition("-")[2].removesuffix(".tar"))
            if number != len(found) or not tar.is_file() or tar.size() != entry.bytes:
                break
            found.append((FinishedShard(entry, known["rows"]), Step(**known["step"])))
        return found

    def is_begun(self) -> bool:
        """Whether there is a shard to go on from."""
        return any(self._read(file) is not None for file in self._folder.list())

    def remove(self) -> None:
        """Forget all shards."""
        self._folder.remove()

    def _read(self, file: Location) -> Mapping[str, Any] | None:
        try:
            content = json.loads(file.read_bytes())
        except ValueError:
            return None
        return content if isinstance(content, dict) and content["build"] == self._build else None


@contextlib.contextmanager
def going_on(
    location: Location, overwrite: bool, digest: str
) -> Iterator[tuple[Location, Journal]]:
    """Where to write a set so that one that is here stays until the block has ended well, and what
    a block like this one that was killed has written there already.

    Args:
        location: As of `replacing`, which says what is raised.
        overwrite: Likewise.
        digest: Of all that the bytes of the set depend on.
    """
    with replacing(location, overwrite, lambda aside: Journal(aside, digest).is_begun()) as place:
        journal = Journal(place, digest)
        if not journal.is_begun():
            journal.remove()
        yield place, journal
        journal.remove()
    (location / JOURNAL_NAME).remove()  # of a set in place that was killed at its very end


def digest_of(options: Mapping[str, object], parts: Mapping[str | None, Iterable[Item]]) -> str:
    """A digest of all that the bytes of a set depend on."""
    converters = {name: version(name) for name in _CONVERTERS}
    with contextlib.suppress(PackageNotFoundError):  # without it there are no videos to decode
        converters["av"] = version("av")
    digest = hashlib.sha256(repr(sorted({**options, **converters}.items())).encode())
    for name, items in parts.items():
        digest.update(f"{name}\n".encode())
        if isinstance(items, Lined) and items.told is not None:
            digest.update(items.told.encode())
            digest.update(items.order.tobytes())
            continue
        for item in items:
            told = (item.key, item.origin, item.label, item.refused, _version_of(item))
            digest.update(repr(told).encode())
    return digest.hexdigest()


def _version_of(item: Item) -> object:
    if isinstance(item.content, np.ndarray):
        return hashlib.sha256(item.content.tobytes()).hexdigest()
    if not isinstance(item.content, Path):
        return item.content.version
    try:
        status = item.content.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
