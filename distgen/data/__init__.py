"""Shard sets: building them, and streaming them in an order that ranks do not change."""

from distgen.data.building.build import Built, build
from distgen.data.building.pack import SetWriter
from distgen.data.config import DataConfig
from distgen.data.index import (
    Manifest,
    ShardSet,
    has_split,
    open_shard_set,
    splits_of,
)
from distgen.data.streaming.loader import Batch, read_labels, read_samples
from distgen.data.streaming.stream import Stream

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
