"""Shard sets, streamed in an order that ranks do not change; `building` makes them."""

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
    "DataConfig",
    "Manifest",
    "ShardSet",
    "Stream",
    "has_split",
    "open_shard_set",
    "read_labels",
    "read_samples",
    "splits_of",
]
