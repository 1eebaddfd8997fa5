"""What a user names as SRC: told by what it is, in one order of rules."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from threading import Lock

from distgen.core.errors import DataError, UsageError, did_you_mean
from distgen.core.storage import Location, locate
from distgen.data.building.convert import SUFFIXES
from distgen.data.building.sources import parquet, tar
from distgen.data.building.sources.builtin import BUILTIN, MADE_CLIPS
from distgen.data.building.sources.files import Below, files_below, visible
from distgen.data.building.sources.folder import FolderSource
from distgen.data.building.sources.idx import IdxSource, find_idx
from distgen.data.building.sources.item import Source
from distgen.data.building.sources.shards import ShardSetSource, is_shard_set
from distgen.data.index import INDEX_NAME

RULES = (
    "a built-in set (`digits`, `stacked-digits`, `fashion-mnist`, `moving-fashion-mnist`)",
    "a Parquet file or a WebDataset tar",
    "a shard set, or a folder of its splits",
    "a folder of IDX files",
    "a folder of Parquet files, of tars, or of pictures (a class is a first-level subfolder)",
)
"""What SRC may be, in the order in which it is looked for."""

_STORE_WORKERS = 16
_FOR = {
    "image_column": "Parquet files",
    "label_column": "Parquet files",
    "picture": "tars",
    "label_key": "tars",
    "clips": "clips that distgen makes",
    "test_clips": "clips that distgen makes",
}
_Reading = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SourceOptions:
    """What says how a source is read; each for one kind of source, else None."""

    image_column: str | None = None
    """Parquet: the column of pictures."""
    label_column: str | None = None
    """Parquet: the column of classes."""
    picture: str | None = None
    """Tars: extension of the members that are the pictures."""
    label_key: str | None = None
    """Tars: key in the `json` members that says the class."""
    clips: int | None = None
    """Clips that distgen makes: how many to train on."""
    test_clips: int | None = None
    """Clips that distgen makes: how many to hold out."""

    def check(self, what: str, *fitting: str) -> None:
        """Refuse options of another kind of source.

        Raises:
            UsageError: One is set.
        """
        for name, value in asdict(self).items():
            if value is not None and name not in fitting:
                raise UsageError(
                    f"--{name.replace('_', '-')} is for {_FOR[name]}, and the source is {what}.",
                    remedy="leave it out",
                )


def open_source(
    source: str,
    options: SourceOptions | None = None,
    *,
    frames: int | None = None,
    workers: int | None = None,
    report: _Reading | None = None,
) -> Source:
    """The source that a name, a path or a URL means: the first of `RULES` that fits.

    Args:
        source: What the user wrote.
        options: How it is read.
        frames: Clips of so many frames are wanted, so that only a folder of videos on this machine
            will do, or clips that distgen makes.
        workers: Files that are opened at a time; None: one for each core, in a store 16.
        report: Told the stage `scan`, the bytes that were gone through and the bytes there are.

    Raises:
        UsageError: There is nothing of that name, nothing usable in it, or an option does not fit.
        DataError: A file is damaged.
    """
    options = options or SourceOptions()
    if source in MADE_CLIPS:
        options.check("clips that distgen makes", "clips", "test_clips")
        return MADE_CLIPS[source](options.clips, options.test_clips, frames)
    if frames is not None:
        options.check("a folder of videos")
        return _open_videos(source)
    if source in BUILTIN:
        options.check("a built-in set")
        return BUILTIN[source]()
    place = locate(source)
    try:
        return _open(source, place, options, workers, report)
    except OSError as error:
        asked = "" if place.local is not None else f" (credentials: {place.credentials})"
        raise DataError(
            "The source cannot be read.", where=str(place), cause=f"{error}{asked}"
        ) from error


def _open_videos(source: str) -> Source:
    if source in BUILTIN:
        raise UsageError(
            f"{source!r} holds pictures, of which no clips can be made.",
            remedy="leave out --frames, or give a folder of videos",
        )
    path = locate(source).local
    if path is None:
        raise UsageError(
            f"Videos are read from this machine's disk, not from {source!r}.",
            remedy="copy the folder here first; the shard set may then go to a URL",
        )
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise UsageError(f"The source {source!r} {what}.", remedy="give a folder of videos")
    return FolderSource(path, videos=True)


def _open(
    source: str,
    place: Location,
    options: SourceOptions,
    workers: int | None,
    report: _Reading | None,
) -> Source:
    kind = _kind_of_file(place) if place.is_file() else _kind_of_folder(source, place)
    if kind == "set":
        options.check("a shard set")
        return ShardSetSource(place)
    if kind == "idx" and place.local is not None:
        options.check("a folder of IDX files")
        return IdxSource(place.local)
    if kind == "pictures" and place.local is not None:
        options.check("a folder of pictures")
        return FolderSource(place.local)
    files = files_below(place)
    scan = _Scan(files, report)
    workers = workers or (os.cpu_count() or 1 if place.local is not None else _STORE_WORKERS)
    if kind == "parquet":
        options.check("Parquet files", "image_column", "label_column")
        columns = (options.image_column, options.label_column)
        return parquet.ParquetSource(place, files, *columns, scan.add, workers)
    options.check("tars", "picture", "label_key")
    _check_extension(options.picture)
    return tar.TarSource(place, files, options.picture, options.label_key, scan.add, workers)


class _Scan:
    """Adds up what was gone through, for whoever shows it."""

    def __init__(self, files: Sequence[Below], report: _Reading | None) -> None:
        fitting = [file for file in files if parquet.is_parquet(file) or tar.is_tar(file)]
        self._total = sum(file.place.size() for file in fitting)
        self._done = 0
        self._report = report
        self._lock = Lock()

    def add(self, count: int) -> None:
        """So many bytes more."""
        with self._lock:
            self._done += count
            if self._report:
                self._report("scan", min(self._done, self._total), self._total)


def _kind_of_file(place: Location) -> str:
    name = place.name.lower()
    if name.endswith(tar.COMPRESSED):
        raise _compressed(str(place))
    if name.endswith(parquet.SUFFIX):
        return "parquet"
    if name.endswith(tar.SUFFIX):
        return "tar"
    folder = f"; did you mean its folder {place.parent}?" if name.endswith(tuple(SUFFIXES)) else ""
    raise UsageError(
        f"The source {str(place)!r} is a file, and neither *.parquet nor *.tar.",
        remedy=f"SRC is {'; '.join(RULES)}{folder}",
    )


def _kind_of_folder(source: str, place: Location) -> str:
    if is_shard_set(place):
        return "set"
    if not place.is_dir():
        raise UsageError(
            f"The source {source!r} does not exist.",
            cause=_why_not_there(place),
            remedy=f"SRC is {'; '.join(RULES)}; {did_you_mean(source, BUILTIN)}",
        )
    if place.local is not None and find_idx(place.local):
        return "idx"
    folder, found = _shallowest(place)
    packed = found.pop("compressed tars", 0)
    if packed and not found:
        raise _compressed(folder)
    if len(found) > 1:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found.items()))
        raise UsageError(
            "The source holds files of several kinds, and only one can be meant.",
            where=folder,
            cause=f"there are {counts}",
            remedy="give the others a folder of their own, or name the one Parquet file or tar",
        )
    kind = next(iter(found), "pictures")
    if place.local is None and kind == "pictures":
        raise UsageError(
            f"There are no Parquet files, no tars and no shard set at {source!r}.",
            cause="single pictures are read from this machine's disk only",
            remedy="copy the folder here first; the shard set may then go to a URL",
        )
    return {"Parquet files": "parquet", "tars": "tar"}.get(kind, kind)


def _why_not_there(place: Location) -> str | None:
    if place.local is not None:
        return None
    if place.url.startswith(("http://", "https://")):
        return "web servers do not list folders: name a file, or a shard set without splits"
    return f"nothing is there for these credentials: {place.credentials}"


def _shallowest(place: Location) -> tuple[str, Counter[str]]:
    """The first folder, from the top down, that holds what a source is made of; how much of each.

    Deeper ones are not looked at: a million pictures in folders would be listed twice.
    """
    for folder, names in _folders(place):
        kinds = Counter(kind for name in names if (kind := _kind_of_name(name)))
        if "tars" in kinds and INDEX_NAME in names:  # of a shard set that has lost its manifest
            kinds -= Counter({"Parquet files": 1})
        if kinds:
            return folder, kinds
    return str(place), Counter()


def _folders(place: Location) -> Iterator[tuple[str, list[str]]]:
    """Folders at and below a place, those above before those below, and the files in each."""
    if place.local is None:
        below: dict[str, list[str]] = {}
        for file in files_below(place):
            folder, _, name = file.relative.rpartition("/")
            below.setdefault(folder, []).append(name)
        for folder in sorted(below, key=lambda folder: (folder.count("/") + bool(folder), folder)):
            yield str(place / folder if folder else place), below[folder]
        return
    seen: set[tuple[int, int]] = set()
    waiting = deque([place.local])
    while waiting:
        folder_path = waiting.popleft()
        try:
            status = folder_path.stat()
            inner, names = visible(folder_path)
        except OSError:
            continue  # the source itself will list it as one that cannot be read
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        yield str(folder_path), names
        waiting.extend(inner)


def _kind_of_name(name: str) -> str | None:
    lower = name.lower()
    if lower.endswith(tar.COMPRESSED):
        return "compressed tars"
    if lower.endswith(parquet.SUFFIX):
        return "Parquet files"
    if lower.endswith(tar.SUFFIX):
        return "tars"
    return "pictures" if lower.endswith(tuple(SUFFIXES)) else None


def _compressed(where: str) -> UsageError:
    return UsageError(
        "The source is compressed tars.",
        where=where,
        cause="no part of a compressed tar can be read by itself",
        remedy="decompress them first: gzip -d *.tar.gz",
    )


def _check_extension(picture: str | None) -> None:
    kinds = sorted(suffix.removeprefix(".") for suffix in SUFFIXES)
    if picture is not None and picture.lower().rpartition(".")[2] not in kinds:
        raise UsageError(
            f"--picture {picture!r} is no kind of picture.",
            remedy=f"an extension that ends in {', '.join(kinds)}",
        )
