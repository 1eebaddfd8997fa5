"""The pictures of a shard set, to make another: of another size, mode, split or encoding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distgen.core.errors import UsageError
from distgen.core.spec import Mode
from distgen.core.storage import Location
from distgen.data.building.sources.files import Part, StoredFile, visible
from distgen.data.building.sources.item import Item, key_from
from distgen.data.building.sources.runs import RUN, Lined
from distgen.data.index import (
    MANIFEST_NAME,
    SPLITS,
    IndexReader,
    ShardSet,
    open_shard_set,
    splits_of,
)

_PLAIN_KEY = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,89}$"


class ShardSetSource:
    """A shard set, or a folder whose subfolders are the splits of one.

    Samples keep their order, and their keys where these are plain and unique; size and mode stay
    unless others are asked for. Members beside the picture and the class are left behind.

    Args:
        place: The folder.

    Raises:
        UsageError: The folders are several sets, or the splits have different classes, or the
            set holds clips.
        DataError: A manifest or an index is damaged.
    """

    default_split = 0.0

    def __init__(self, place: Location) -> None:
        self.name = place.name
        self.splits = () if (place / MANIFEST_NAME).is_file() else splits_of(place.url)
        self._sets: dict[str | None, ShardSet] = {
            name: open_shard_set((place / name).url) for name in self.splits
        } or {None: open_shard_set(place.url)}
        for name, each in self._sets.items():
            if name is not None and name not in (*SPLITS, each.manifest.split):
                raise UsageError(
                    f"{str(place)!r} holds several shard sets: {', '.join(self.splits)}.",
                    remedy=f"name one of them: {place / self.splits[0]}",
                )
            if each.spec.frames is not None:
                raise UsageError(
                    "The source is a shard set of clips, and this makes sets of pictures.",
                    where=str(each.location),
                    remedy="make other clips of the videos: distgen data build VIDEOS DST "
                    f"--frames {each.spec.frames}",
                )
        first = next(iter(self._sets.values()))
        self.classes = first.spec.classes
        for other in self._sets.values():
            if other.spec.classes != self.classes:
                raise UsageError(
                    "The splits of this shard set have different classes.",
                    where=str(other.location),
                    remedy="build each by itself",
                )
        specs = [each.spec for each in self._sets.values()]
        sizes = {(spec.height, spec.width) for spec in specs}
        modes = {spec.mode for spec in specs}
        self.default_size = sizes.pop() if len(sizes) == 1 else None
        self.default_mode: Mode | None = modes.pop() if len(modes) == 1 else None

    def items(self, split: str | None, /) -> Sequence[Item]:
        """The samples of one split, or of the set."""
        return _line_up(self._sets[split])


def is_shard_set(place: Location) -> bool:
    """Whether a folder is a shard set, or holds the splits of one.

    Folders may hold a million files, none of which is asked for by itself.
    """
    if (place / MANIFEST_NAME).is_file():
        return True
    if place.local is None:
        inner = (name.partition("/")[2] for name in place.find())
        return any(name == MANIFEST_NAME for name in inner)
    if not place.local.is_dir():
        return False
    folders, _ = visible(place.local)
    return any((folder / MANIFEST_NAME).is_file() for folder in folders)


def _line_up(shard_set: ShardSet) -> Lined:
    keys, columns = _rows(shard_set)
    shards = [
        StoredFile(shard_set.shard(number).url, entry.sha256)
        for number, entry in enumerate(shard_set.manifest.shards)
    ]
    fitting = pc.all(pc.match_substring_regex(keys, _PLAIN_KEY)).as_py()
    kept = fitting and pc.count_distinct(keys).as_py() == len(keys)
    labels, offsets, sizes, sums = (columns[name] for name in ("label", "offset", "size", "crc32"))

    def make(number: int) -> Item:
        shard = int(np.searchsorted(shard_set.starts, number, side="right")) - 1
        key, name = keys[number].as_py(), shard_set.manifest.shards[shard].name
        return Item(
            key if kept else key_from(key, f"{name}/{number - shard_set.starts[shard]}/{key}"),
            f"{shards[shard].url}/{key}",
            int(labels[number]),
            Part(shards[shard], int(offsets[number]), int(sizes[number]), int(sums[number])),
        )

    order = np.arange(shard_set.num_samples)
    told = f"{shard_set.location} {shard_set.fingerprint} {shard_set.manifest.index.sha256}"
    return Lined(order, make, order // RUN, told)


def _rows(shard_set: ShardSet) -> tuple[pa.ChunkedArray, dict[str, np.ndarray]]:
    """Keys; and label, offset, size and CRC-32 of each sample's picture, int64 [samples]."""
    keys: list[pa.Array] = []
    parts: list[dict[str, np.ndarray]] = []
    index = IndexReader(shard_set)
    for shard in range(len(shard_set.manifest.shards)):
        rows = index.rows(shard)
        keys += index.table(shard, ["key"]).column("key").chunks
        parts.append({name: getattr(rows, name) for name in ("label", "offset", "size", "crc32")})
    index.close()
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return pa.chunked_array(keys, pa.string()), columns
