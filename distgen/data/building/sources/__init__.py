"""Where pictures come from: folders, Parquet, tars, shard sets, IDX files and the built-in sets."""

from __future__ import annotations

from distgen.data.building.sources.builtin import BUILTIN
from distgen.data.building.sources.item import Item, Source, split_of
from distgen.data.building.sources.opening import RULES, SourceOptions, open_source
from distgen.data.building.sources.runs import chosen, chunk_end

__all__ = [
    "BUILTIN",
    "RULES",
    "Item",
    "Source",
    "SourceOptions",
    "chosen",
    "chunk_end",
    "open_source",
    "split_of",
]
