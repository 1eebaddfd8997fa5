"""Rows of a shard set's index: where samples lie in their tars."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from distgen.core.spec import MAX_CLIP_BYTES

MAX_SAMPLE_BYTES = MAX_CLIP_BYTES + (1 << 20)
"""Of one encoded sample: the largest clip and its header."""


@dataclass(frozen=True)
class ShardRows:
    """Where the pictures of one shard lie, one entry per sample.

    `label` is -1 where there is none; `offset` and `size` are the byte range in the tar; `crc32` is
    the checksum of these bytes.
    """

    label: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    crc32: np.ndarray

    def check_reach(self, tar_bytes: int) -> None:
        """Refuse numbers that lead out of a tar of this size, or claim more than a sample can have.

        Raises:
            ValueError: Says which.
        """
        if (self.size < 0).any():
            raise ValueError("a sample has no picture")
        if (self.offset < 0).any() or (self.offset > tar_bytes - self.size).any():
            raise ValueError("a sample lies outside it")
        if (self.size > MAX_SAMPLE_BYTES).any():
            raise ValueError("a sample is larger than any can be")


def rows_of(table: pa.Table, fields: Sequence[str]) -> ShardRows:
    """The rows of an index's table.

    Args:
        table: Columns `label` and, for each field, `<field>.offset`, `.size` and `.crc32`.
        fields: Extensions of members that are the samples.

    Raises:
        ArrowException, KeyError: A column is missing or holds no integers.
    """
    merged = {}
    for part in ("offset", "size", "crc32"):
        parts = [_numpy(table, f"{field}.{part}") for field in fields]
        # A sample has one picture; where the set mixes formats, the others are null (-1).
        merged[part] = functools.reduce(lambda a, b: np.where(a >= 0, a, b), parts)
    return ShardRows(label=_numpy(table, "label"), **merged)


def _numpy(table: pa.Table, column: str) -> np.ndarray:
    values = table.column(column).cast(pa.int64()).fill_null(-1)
    return np.asarray(values.to_numpy(), dtype=np.int64)
