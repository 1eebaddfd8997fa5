"""Where pictures come from: folders, IDX files and the built-in sets, as sequences of items."""

from __future__ import annotations

from distgen.core.errors import UsageError, did_you_mean
from distgen.core.storage import locate
from distgen.data.sources.builtin import BUILTIN
from distgen.data.sources.folder import FolderSource
from distgen.data.sources.idx import IdxSource, find_idx
from distgen.data.sources.item import Item, Source, split_of

__all__ = ["BUILTIN", "Item", "Source", "open_source", "split_of"]


def open_source(source: str, *, videos: bool = False) -> Source:
    """What a user names as SRC: `digits`, `fashion-mnist`, a folder of IDX files or of pictures.

    Args:
        source: The name or the path.
        videos: Clips are wanted, so that only a folder of videos will do.

    Raises:
        UsageError: There is nothing of that name, or nothing usable in it.
    """
    if source in BUILTIN and videos:
        raise UsageError(
            f"{source!r} holds pictures, of which no clips can be made.",
            remedy="leave out --frames, or give a folder of videos",
        )
    if source in BUILTIN:
        return BUILTIN[source]()
    place = locate(source)
    if place.local is None:
        raise UsageError(
            f"Pictures are read from this machine's disk, not from {source!r}.",
            remedy="copy the folder here first; the shard set may then go to a URL",
        )
    path = place.local
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        near = did_you_mean(source, BUILTIN)
        raise UsageError(
            f"The source {source!r} {what}.",
            remedy=f"give a folder of pictures or of IDX files, or a built-in set; {near}",
        )
    if find_idx(path) and not videos:
        return IdxSource(path)
    return FolderSource(path, videos=videos)
