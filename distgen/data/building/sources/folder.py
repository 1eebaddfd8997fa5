"""Pictures or videos as files in folders, a class in each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from distgen.core.errors import UsageError
from distgen.data.building import convert, frames
from distgen.data.building.sources.files import walk
from distgen.data.building.sources.item import Item, key_of, sort_items
from distgen.data.index import SPLITS

UNPLACED = "it lies outside the class folders"
"""Why a picture is refused where others lie in folders of their classes."""


class FolderSource:
    """A folder: a class is a first-level subfolder, however deep below it its pictures lie.

    A folder without subfolders has no labels. Where all subfolders are named like splits (`train`,
    `test`, `val`), each is a folder of that kind. Hidden files and folders are left alone, links
    are followed, class names are sorted naturally (2 before 10).

    Args:
        path: The folder.
        videos: Its files hold the frames of clips, not pictures.

    Raises:
        UsageError: There is no file in the folder.
    """

    default_size = None
    default_mode = None
    default_split = 0.0

    def __init__(self, path: Path, *, videos: bool = False) -> None:
        self.name = path.resolve().name
        self._path = path
        self._videos = videos
        children = [child.name for child in path.iterdir() if _visible(child) and child.is_dir()]
        self.splits = tuple(s for s in SPLITS if s in children)
        if set(children) != set(self.splits) or "train" not in children:
            self.splits = ()
        roots = [path / split for split in self.splits] or [path]
        self._closed: dict[Path, str] = {}
        self._files = {root: list(walk(root, self._closed)) for root in roots}
        files = [(root, file) for root, found in self._files.items() for file in found]
        names = {_class_of(root, file) for root, file in files} - {None}
        self.classes = tuple(sorted((n for n in names if n is not None), key=_natural))
        if not files:
            raise UsageError(
                f"There is no file in {str(path)!r}.",
                remedy="give a folder of videos in class folders"
                if videos
                else "give a folder of Parquet files, of tars, or of pictures in class folders",
            )

    def items(self, split: str | None, /) -> Sequence[Item]:
        """The files of one split, or of the folder."""
        root = self._path / split if split else self._path
        labels = {name: label for label, name in enumerate(self.classes)}
        items = []
        for file in self._files[root]:
            label = labels.get(_class_of(root, file) or "", -1)
            key = key_of(file.relative_to(root).as_posix())
            refusal = self._closed.get(file) or self._refusal(file, label)
            items.append(Item(key, str(file), label, file, refusal))
        return sort_items(items)

    def _refusal(self, file: Path, label: int) -> str:
        suffix = file.suffix.lower()
        if self._videos and suffix not in frames.SUFFIXES:
            return f"a name that ends in {file.suffix!r} is not that of a video"
        if not self._videos and suffix not in convert.SUFFIXES:
            also = "; --frames makes clips of videos" if suffix in frames.SUFFIXES else ""
            return f"a name that ends in {file.suffix!r} is not that of a picture{also}"
        if self.classes and label < 0:
            return UNPLACED
        return ""


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _class_of(root: Path, file: Path) -> str | None:
    parts = file.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def _natural(name: str) -> tuple[object, ...]:
    parts = re.split(r"(\d+)", name.casefold())
    return (tuple((int(p), "") if p.isdigit() else (-1, p) for p in parts), name)
