"""Shard sets: building them, and streaming them in an order that ranks do not change."""

from distgen.data.build import Built, build
from distgen.data.index import (
    Manifest,
    ShardSet,
    has_split,
    open_shard_set,
    splits_of,
)
from distgen.data.pack import SetWriter
from distgen.data.stream import Batch, DataConfig, Stream, read_labels, read_samples

__all__ = [
    "Batch",
    "Built",
    "DataConfig",
    "Manifest",
    "SetWriter",
    "ShardSet",
    "Stream",
    "build",
    "has_split",
    "open_shard_set",
    "read_labels",
    "read_samples",
    "splits_of",
]
