"""Pictures in WebDataset tars that anybody may have packed, whatever their size, format or mode."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from distgen.core.storage import Location
from distgen.data.building.classes import number_classes
from distgen.data.building.convert import SUFFIXES
from distgen.data.building.sources.files import Below, Part, StoredFile, by_split
from distgen.data.building.sources.item import Item, key_from, key_of
from distgen.data.building.sources.runs import RUN, Lined, line_up
from distgen.data.formats.foreign import Rules, samples_of
from distgen.data.formats.tars import TarFile

SUFFIX = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

_KINDS = tuple(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))
_NO_PICTURE = -1


@dataclass(frozen=True)
class _Scanned:
    """Where the pictures of a tar lie, and their classes."""

    file: Below
    stored: StoredFile
    names: pa.BinaryArray
    """Name of each sample's picture, or of the sample where it has none; may be no UTF-8."""
    offsets: np.ndarray
    """Where its bytes begin, int64 [samples]."""
    sizes: np.ndarray
    """How many they are, int64 [samples]; -1 where the sample has no picture."""
    copies: Mapping[int, int]
    """How many samples before have the same name, of those where there are any."""
    labels: Mapping[str, str]
    """Different labels, each with a sample that has it."""
    codes: np.ndarray
    """Number among them of each sample's label, int32 [samples]; -1 where there is none."""

    def name(self, row: int) -> str:
        return str(self.names[row].as_py().decode(errors="surrogateescape"))


class TarSource:
    """A tar, or a folder of them.

    Args:
        place: The file or the folder.
        files: What lies there; what is no tar becomes an item that is refused.
        picture: Extension of the members that are the pictures, where samples have several.
        label_key: Key in the `json` members that says the class; None: `cls` members do.
        on_read: Told how many bytes of the files have been gone through, each time.
        workers: Tars that are gone through at a time.

    Raises:
        DataError: A tar is damaged, or a sample has several pictures or no class that can be read.
    """

    default_size = None
    default_mode = None
    default_split = 0.0

    def __init__(
        self,
        place: Location,
        files: Sequence[Below],
        picture: str | None,
        label_key: str | None,
        on_read: Callable[[int], None],
        workers: int,
    ) -> None:
        self.name = place.name.removesuffix(SUFFIX)
        chosen = picture.lower().lstrip(".") if picture else None
        rules = Rules(chosen, label_key, _KINDS, streamed=False)
        fitting = [file for file in files if is_tar(file)]
        with ThreadPoolExecutor(workers, "distgen-tars") as threads:
            scans = threads.map(lambda file: _scan(file, rules, on_read), fitting)
            scanned = {each.file.relative: each for each in scans}
        labels: dict[str, str] = {}
        for each in scanned.values():
            for text, sample in each.labels.items():
                labels.setdefault(text, sample)
        self.classes, numbers = number_classes(labels, None)
        parts = by_split(fitting)
        self.splits = tuple(name for name in parts if name is not None)
        others = [_refused(file) for file in files if not is_tar(file)]
        self._items = {
            name: _line_up(
                [scanned[file.relative] for file in part], numbers, others * (not number), rules
            )
            for number, (name, part) in enumerate(parts.items())
        }

    def items(self, split: str | None, /) -> Sequence[Item]:
        """The samples of one split, or all of them."""
        return self._items[split]


def is_tar(file: Below) -> bool:
    """Whether this is a tar by its name, and may be read."""
    return file.place.name.lower().endswith(SUFFIX) and not file.refused


def _refused(file: Below) -> Item:
    packed = file.place.name.lower().endswith(COMPRESSED)
    reason = "it is compressed" if packed else "the source is tars, and it is none"
    return Item(key_of(file.relative), str(file.place), -1, Path(), file.refused or reason)


def _scan(file: Below, rules: Rules, on_read: Callable[[int], None]) -> _Scanned:
    """Walk through a tar; contents of pictures are passed over."""
    try:
        stored = StoredFile(file.place.url, file.place.version())
        tar = TarFile(
            file.place.open_ranges(),
            file.place.size(),
            str(file.place),
            on_read,
            whole=False,
            distant=file.place.local is None,
        )
        return _places(file, stored, tar, rules)
    except OSError as error:
        raise stored.unreadable(error) from error


def _places(file: Below, stored: StoredFile, tar: TarFile, rules: Rules) -> _Scanned:
    names: list[bytes] = []
    offsets, sizes, codes = array("q"), array("q"), array("i")
    labels: dict[str, str] = {}
    numbers: dict[str, int] = {}
    times: Counter[bytes] = Counter()
    copies: dict[int, int] = {}
    for sample in samples_of(tar, rules):
        extension = sample.picture(tar, rules)
        member = sample.members[extension] if extension is not None else None
        name = (member.name if member else sample.key).encode(errors="surrogateescape")
        if times[name]:
            copies[len(names)] = times[name]
        times[name] += 1
        names.append(name)
        offsets.append(member.offset if member else 0)
        sizes.append(member.size if member else _NO_PICTURE)
        if sample.label is not None:
            labels.setdefault(sample.label, f"sample {sample.shown!r} in {file.place}")
            codes.append(numbers.setdefault(sample.label, len(numbers)))
        else:
            codes.append(-1)
    return _Scanned(
        file,
        stored,
        pa.array(names, pa.large_binary()),
        np.array(offsets),
        np.array(sizes),
        copies,
        labels,
        np.array(codes),
    )


def _line_up(
    scanned: Sequence[_Scanned], numbers: Mapping[str, int], others: Sequence[Item], rules: Rules
) -> Lined:
    """The samples of some tars, and items that are none of theirs."""
    starts = np.cumsum([0] + [len(each.sizes) for each in scanned])
    labels = np.concatenate(
        [np.empty(0, np.int32)]
        + [
            np.array([*(numbers[text] for text in each.labels), -1], np.int32)[each.codes]
            for each in scanned
        ]
    )

    def make(number: int) -> Item:
        if number >= starts[-1]:
            return others[number - int(starts[-1])]
        place = int(np.searchsorted(starts, number, side="right")) - 1
        each, row = scanned[place], number - int(starts[place])
        return _item(each, row, int(labels[number]))

    names, sizes = [], []
    digest = hashlib.sha256(repr((rules, others)).encode())
    for each in scanned:
        digest.update(repr((each.file.relative, each.stored)).encode())
        begins = range(0, len(each.sizes), RUN)
        names += [f"{each.file.relative}#{begin}" for begin in begins]
        sizes += [min(RUN, len(each.sizes) - begin) for begin in begins]
    names += [each.key for each in others]
    return line_up(names, sizes + [1] * len(others), make, digest.hexdigest())


def _item(scanned: _Scanned, row: int, label: int) -> Item:
    name = scanned.name(row)
    relative = f"{scanned.file.relative[: -len(SUFFIX)]}/{name}"
    if row in scanned.copies:
        relative = f"{relative}#{scanned.copies[row]}"
    size = int(scanned.sizes[row])
    return Item(
        key_from(relative.rpartition(".")[0], relative),
        f"{scanned.file.place}/{name}",
        label,
        Part(scanned.stored, int(scanned.offsets[row]), size),
        "no member of this sample is a picture" if size == _NO_PICTURE else "",
    )
