"""Sheets on which a person sees what a model does, made without a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distgen.metrics.grid import to_uint8_nhwc
from distgen.models.base import Sampler
from distgen.models.latents import Latents, interpolate
from distgen.serving.sampler import Picture, UInt8Images, latents_for, picture_seed

_BATCH = 64
ROWS, MOST_CLASSES = 8, 16


@dataclass(frozen=True)
class SheetOptions:
    """What a sheet shows."""

    labels: tuple[int, ...] = ()
    """Classes that rows take in turn; empty for a model without classes."""
    rows: int = ROWS
    columns: int = 10
    seed: int = 0
    """The pictures are those that an endpoint makes for it."""
    truncation: float | None = None
    """Bound of the latents, or None."""

    def latents(self, numbers: Sequence[int], latent_dim: int) -> Latents:
        """Latents of the pictures with these numbers."""
        pictures = [
            Picture(picture_seed(self.seed, number), truncation=self.truncation)
            for number in numbers
        ]
        return latents_for(pictures, latent_dim)

    def labels_by_row(self) -> NDArray[np.int64]:
        """The class of each picture, where there are classes: one for each row."""
        rows = [self.labels[row % len(self.labels)] for row in range(self.rows)]
        return np.repeat(np.array(rows, np.int64), self.columns)


def grid(network: Sampler, options: SheetOptions) -> UInt8Images:
    """Pictures `[rows x columns, H, W, C]`: by class the same latents in each row, else all new."""
    count = options.columns if options.labels else options.rows * options.columns
    latents_nd = options.latents(range(count), network.latent_dim)
    if options.labels:
        latents_nd = np.tile(latents_nd, (options.rows, 1))
    return paint(network, latents_nd, options)


def walk(network: Sampler, options: SheetOptions) -> UInt8Images:
    """Pictures `[rows x columns, H, W, C]`: each row leads from one to another of the same class.

    The two ends of row r are the pictures 2 r and 2 r + 1 of a request with this seed.
    """
    ends = options.latents(range(2 * options.rows), network.latent_dim)
    rows = [
        interpolate(first, second, options.columns)
        for first, second in zip(ends[::2], ends[1::2], strict=True)
    ]
    return paint(network, np.concatenate(rows), options)


KINDS: dict[str, Callable[[Sampler, SheetOptions], UInt8Images]] = {
    "grid": grid,
    "interpolate": walk,
}
"""What a sheet can show: pictures row by row."""


@torch.inference_mode()
def paint(network: Sampler, latents_nd: Latents, options: SheetOptions) -> UInt8Images:
    """The pictures of these latents, row by row of the sheet."""
    labels_n = torch.from_numpy(options.labels_by_row()) if options.labels else None
    latents = torch.from_numpy(latents_nd)
    parts = [slice(start, start + _BATCH) for start in range(0, len(latents), _BATCH)]
    return np.concatenate(
        [
            to_uint8_nhwc(network.sample(latents[p], None if labels_n is None else labels_n[p]))
            for p in parts
        ]
    )
