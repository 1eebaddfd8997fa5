"""Latent traversals: one latent moved from end to end and the others held, a row for each."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from distgen.metrics.grid import reduced_to_fit, to_uint8_nhwc, usual_scale
from distgen.metrics.latents import LatentGroupScores, Strength
from distgen.models import Sampler

VALUES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""Where a latent is put, in standard deviations of its prior."""
ROWS = 24
"""Latents on a sheet, at most, shared by its groups."""
_SLIGHTEST = 0.005
"""Share of a group's KL (and nats, at least) below which a latent is not worth a row."""
_GAP, _LABEL, _LINE = 2, 104, 16
_INK, _DIM, _PAPER = (29, 39, 51), (102, 102, 119), (255, 255, 255)


@torch.no_grad()
def traverse(
    model: Sampler,
    base_d: Tensor,
    dimensions: Sequence[int],
    values: Sequence[float] = VALUES,
    label: int | None = None,
) -> np.ndarray:
    """Pictures with one latent changed, uint8 `[dimensions, values, H, W, C]`.

    Args:
        model: In evaluation mode.
        base_d: The latents that are changed one at a time [latent_dim], on the model's device.
        dimensions: Which of them, a row each.
        values: What each is set to, a column each.
        label: The class, for a conditional model.
    """
    rows = []
    for dimension in dimensions:
        latents_vd = base_d.expand(len(values), -1).clone()
        latents_vd[:, dimension] = torch.tensor(values, dtype=base_d.dtype, device=base_d.device)
        labels = None
        if model.num_classes:
            labels = torch.full((len(values),), label or 0, device=base_d.device)
        rows.append(to_uint8_nhwc(model.sample(latents_vd, labels)))
    return np.stack(rows)


def change(pictures_vhwc: np.ndarray) -> np.ndarray:
    """How much each pixel changes along a row: largest minus smallest value, uint8 `[H, W, C]`."""
    changed: np.ndarray = pictures_vhwc.max(axis=0) - pictures_vhwc.min(axis=0)
    return changed


def strongest(groups: Sequence[LatentGroupScores], rows: int = ROWS) -> list[list[Strength]]:
    """The latents of each group that a sheet of so many rows shows, by KL, the most first.

    Rows are shared evenly; what a group with few latents leaves goes to the others. Latents that
    hold next to nothing get no row, but every group has one, so that one sees that it is empty.
    """
    worth = [
        [s for s in group.strongest if s.kl_nats > max(_SLIGHTEST, _SLIGHTEST * group.kl_nats)]
        or list(group.strongest[:1])
        for group in groups
    ]
    counts = [min(1, len(each)) for each in worth]
    while sum(counts) < rows and any(c < len(w) for c, w in zip(counts, worth, strict=True)):
        open_groups = [i for i, each in enumerate(worth) if counts[i] < len(each)]
        counts[min(open_groups, key=lambda i: counts[i])] += 1
    return [each[:count] for each, count in zip(worth, counts, strict=True)]


def traversal_sheet(
    model: Sampler,
    groups: Sequence[LatentGroupScores],
    *,
    base_d: Tensor | None = None,
    label: int | None = None,
    rows: int = ROWS,
    device: torch.device | None = None,
) -> bytes:
    """A sheet of traversals as PNG: a row for each latent, ordered by KL, group by group.

    The last picture of a row is dark where the pixels change along it, each row by its own scale;
    the largest change is written beside the row, of 255 grey levels.

    Args:
        model: In evaluation mode.
        groups: What its latents hold: `Card.latents.groups`.
        base_d: The latents that are changed one at a time; by default the prior's mean.
        label: The class, for a conditional model.
        rows: Latents shown at most; each group shows one at least.
        device: Where the model is; by default the CPU.
    """
    if base_d is None:
        base_d = torch.zeros(model.latent_dim, device=device)
    shown = strongest(groups, rows)
    sheets = [
        traverse(model, base_d, [strength.index for strength in each], label=label)
        for each in shown
    ]
    columns = len(VALUES) + 1
    count = sum(map(len, sheets))
    sheets = [np.stack([reduced_to_fit(row, count, columns) for row in each]) for each in sheets]
    height, width = sheets[0].shape[2:4]
    scale = usual_scale(height, width)
    cell = (height * scale + _GAP, width * scale + _GAP)
    size = (
        _LABEL + columns * cell[1] + 3 * _GAP,
        _LINE + sum(_LINE + len(each) * cell[0] for each in shown) + _GAP,
    )
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    for column, text in enumerate(
        [*(f"{value:+g}" if value else "0" for value in VALUES), "change"]
    ):
        pen.text((_LABEL + column * cell[1] + 4, 2), text, fill=_DIM, font=font)
    top = _LINE
    for number, (group, each, pictures) in enumerate(zip(groups, shown, sheets, strict=True), 1):
        pen.text((2, top + 2), _heading(number, len(groups), group), fill=_INK, font=font)
        top += _LINE
        for strength, row in zip(each, pictures, strict=True):
            changed = change(row)
            most = int(changed.max())
            pen.text((2, top + 4), f"latent {strength.index}", fill=_INK, font=font)
            pen.text((2, top + 18), f"{strength.kl_nats:.3g} nats", fill=_DIM, font=font)
            pen.text((2, top + 32), f"up to {most} of 255", fill=_DIM, font=font)
            shown_change = 255 - (changed.astype(np.int64) * 255 // max(1, most)).astype(np.uint8)
            for column, picture in enumerate([*row, shown_change]):
                left = _LABEL + column * cell[1] + (2 * _GAP if column == len(VALUES) else 0)
                sheet.paste(_enlarged(picture, scale), (left, top))
            top += cell[0]
    out = io.BytesIO()
    sheet.save(out, format="PNG")
    return out.getvalue()


def _heading(number: int, count: int, group: LatentGroupScores) -> str:
    name = f"group {number}: " if count > 1 else ""
    return f"{name}{group.size:,} latents, {group.active:,} active, {group.kl_nats:.2f} nats"


def _enlarged(picture_hwc: np.ndarray, scale: int) -> Image.Image:
    pixels = picture_hwc.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
