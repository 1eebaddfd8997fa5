"""One frame from the ones before: what two frames show of the scene and its motion, and a decoder
that draws with copies of the last frame, moved.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distgen.models.layers import (
    LINEAR,
    Pyramid,
    branch_gain,
    linear,
    residual_blocks,
    scaled,
)

_STAY = 4.0
"""How much likelier than each other move no move is at the start, as a logarithm."""


class Seen(NamedTuple):
    """What a pair of frames shows."""

    vector_nf: Tensor
    maps: tuple[Tensor, ...]
    """Feature maps by level, coarse to fine: the decoder's skip connections."""


class FrameEncoder(nn.Module):
    """A frame and the one before it, to a vector and to feature maps at each resolution.

    Two frames show motion where it happens, so that no recurrent state has to carry it.

    Args:
        channels: Of a frame.
        pyramid: Resolutions.
        width: Feature maps at the coarsest one.
        features: Size of the vector.
    """

    def __init__(self, channels: int, pyramid: Pyramid, width: int, features: int) -> None:
        super().__init__()
        widths = pyramid.widths(width)[::-1]
        first = nn.Conv2d(2 * channels, widths[0], 4, stride=2, padding=1)
        self.from_frames = scaled(first, LINEAR)
        self.downs = nn.ModuleList(
            scaled(nn.Conv2d(fine, coarse, 4, stride=2, padding=1))
            for fine, coarse in pairwise(widths)
        )
        self.vector = linear(width * pyramid.base_height * pyramid.base_width, features)

    def forward(self, before_nchw: Tensor, frames_nchw: Tensor) -> Seen:
        """What the frames show, next to those before them."""
        features = self.from_frames(torch.cat((before_nchw, frames_nchw), dim=1))
        maps = [features]
        for down in self.downs:
            features = down(F.silu(features))
            maps.append(features)
        return Seen(F.silu(self.vector(F.silu(features).flatten(1))), tuple(reversed(maps)))


class FrameDecoder(nn.Module):
    """The next frame: each pixel a mixture of moved copies of the last frame and a drawn one.

    Copies keep what a frame looks like and leave to the latents what is new (Finn, Goodfellow &
    Levine 2016, with separable kernels). Feature maps of the last frames come in at each
    resolution, as in Denton & Fergus 2018.

    Args:
        inputs: Size of the vector that says what happens next.
        channels: Of a frame.
        pyramid: Resolutions.
        width: Feature maps at the coarsest one.
        copies: Number of moved copies.
        reach: Pixels by which a copy can move in each direction.
    """

    def __init__(
        self, inputs: int, channels: int, pyramid: Pyramid, width: int, copies: int, reach: int
    ) -> None:
        super().__init__()
        widths = pyramid.widths(width)
        self.channels, self.copies, self.reach = channels, copies, reach
        self.base_shape = (width, pyramid.base_height, pyramid.base_width)
        self.base = linear(inputs, math.prod(self.base_shape), gain=LINEAR)
        # The finest level has the most pixels, and learns the least for its time.
        gain = branch_gain(max(len(widths) - 1, 1))
        self.stages = nn.ModuleList(
            residual_blocks(each, 1, gain, F.silu) for each in widths[: max(len(widths) - 1, 1)]
        )
        self.ups = nn.ModuleList(
            scaled(nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1), LINEAR)
            for coarse, fine in pairwise(widths)
        )
        outputs = channels + copies + 1
        self.to_frame = scaled(nn.ConvTranspose2d(widths[-1], outputs, 4, stride=2, padding=1))
        self.plan = linear(inputs, 2 * width, gain=LINEAR)
        self.moves = linear(2 * width, copies * 2 * (2 * reach + 1))

    def forward(self, vector_nf: Tensor, seen: Seen, last_nchw: Tensor, shifts: Shifts) -> Tensor:
        """The expected frame [n, c, h, w] in [-1, 1], float32."""
        features: Tensor = self.base(vector_nf).unflatten(1, self.base_shape)
        for level, skip in enumerate(seen.maps):
            if level:
                features = self.ups[level - 1](features)
            features = math.sqrt(0.5) * (features + skip)
            if level < len(self.stages):
                features = self.stages[level](features)
        outputs: Tensor = self.to_frame(F.silu(features)).float()
        drawn, choice = outputs[:, : self.channels], outputs[:, self.channels :]
        copies = self._copies(vector_nf, last_nchw.float(), shifts)
        sources = torch.cat((copies, torch.tanh(drawn).unsqueeze(1)), dim=1)
        frame: Tensor = (choice.softmax(1).unsqueeze(2) * sources).sum(1)
        return frame

    def _copies(self, vector_nf: Tensor, last_nchw: Tensor, shifts: Shifts) -> Tensor:
        """Moved copies of the last frame [n, copies, c, h, w]."""
        scores: Tensor = self.moves(F.silu(self.plan(vector_nf))).float()
        scores = scores.reshape(len(scores), self.copies, 2, 2 * self.reach + 1)
        stay = _STAY * (torch.arange(scores.shape[3], device=scores.device) == self.reach)
        down, right = (scores + stay).softmax(3).unbind(2)
        return shifts.moved(last_nchw, down, right)


class Shifts:
    """All moves of a picture's rows and columns by whole pixels; what comes in repeats the edge."""

    def __init__(self, reach: int, like_nchw: Tensor) -> None:
        height, width = like_nchw.shape[-2:]
        self.rows = _shift_matrices(height, reach, like_nchw.device)
        self.columns = _shift_matrices(width, reach, like_nchw.device)

    def moved(self, images_nchw: Tensor, down_nks: Tensor, right_nks: Tensor) -> Tensor:
        """Copies [n, k, c, h, w], each the mean of all moves under its probabilities.

        Args:
            images_nchw: float32.
            down_nks: Probability of each move downwards, from -reach to reach.
            right_nks: The same to the right.
        """
        # Frames come back as copies of copies: bfloat16 would lose a little each time.
        with torch.autocast(images_nchw.device.type, enabled=False):
            by_row = _mixed(down_nks, self.rows)
            by_column = _mixed(right_nks, self.columns)
            half = by_row.unsqueeze(2) @ images_nchw.unsqueeze(1)
            moved: Tensor = half @ by_column.transpose(2, 3).unsqueeze(2)
            return moved


def _mixed(probabilities_nks: Tensor, matrices_saa: Tensor) -> Tensor:
    """The mean of the matrices under each row of probabilities [n, k, a, a]."""
    side = matrices_saa.shape[1]
    mixed: Tensor = probabilities_nks @ matrices_saa.flatten(1)
    return mixed.reshape(*mixed.shape[:2], side, side)


def _shift_matrices(side: int, reach: int, device: torch.device) -> Tensor:
    """Matrices [2 * reach + 1, side, side]: row i of number s takes pixel i - (s - reach)."""
    moves = torch.arange(-reach, reach + 1, device=device)
    places = torch.arange(side, device=device)
    sources = (places - moves.unsqueeze(1)).clamp(0, side - 1)
    return F.one_hot(sources, side).float()
