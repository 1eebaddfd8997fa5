"""Sheets on which a person sees what a model does, made without a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distgen.core.errors import UsageError, did_you_mean
from distgen.metrics.animation import AnimationFormat, animate, moving_grid, sheet_png
from distgen.metrics.grid import grid_png, to_uint8_nhwc
from distgen.metrics.traversal import traversal_sheet
from distgen.models.base import Sampler
from distgen.models.latents import Latents, interpolate
from distgen.registry.bundle import Bundle
from distgen.serving.making.encode import UInt8Images
from distgen.serving.making.engine import network_of
from distgen.serving.making.sampler import Picture, latents_for, picture_seed

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


PAINTED: dict[str, Callable[[Sampler, SheetOptions], UInt8Images]] = {
    "grid": grid,
    "interpolate": walk,
}
"""Sheets of pictures row by row."""
KINDS = (*PAINTED, "traverse")
"""What a sheet can show."""


def sheet(
    bundle: Bundle, kind: str, options: SheetOptions, moving: AnimationFormat | None = None
) -> bytes:
    """A sheet as PNG; of a model of clips also as a file in which they play.

    Args:
        bundle: Whose pictures.
        kind: One of `KINDS`. `grid` and `interpolate` show pictures row by row, clips on a PNG
            their frames; `traverse` has a row for each of the latents that hold most, by the
            bundle's card, and shows what the picture of the prior's mean becomes as one moves.
        options: What it shows.
        moving: The format in which clips play; None: PNG.

    Raises:
        UsageError: There is no such kind, or not of this model.
        ValueError: It would be absurdly large.
    """
    network, frames = network_of(bundle), bundle.spec.frames
    if kind not in KINDS:
        raise UsageError(f"There is no kind of sheet {kind!r}.", remedy=did_you_mean(kind, KINDS))
    if moving and (frames is None or kind not in PAINTED):
        what = "Traversals do" if kind not in PAINTED else "Single pictures do"
        raise UsageError(f"{what} not play.", remedy="--out with a name that ends in .png")
    if kind in PAINTED:
        pictures = PAINTED[kind](network, options)
        if frames is None:
            return grid_png(pictures, columns=options.columns)
        if moving:
            return animate(moving_grid(pictures, columns=options.columns), moving)
        return sheet_png(pictures, together=options.columns if kind == "interpolate" else 0)
    card = bundle.card
    if card is None or card.latents is None or frames is not None:
        raise UsageError(
            f"What each latent of {bundle.name} does was not measured.",
            where=str(bundle.location),
            cause="it is a GAN, a model of clips, or was never evaluated",
            remedy="--kind interpolate",
        )
    label = options.labels[0] if options.labels else None
    return traversal_sheet(network, card.latents.groups, label=label, rows=options.rows)


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
