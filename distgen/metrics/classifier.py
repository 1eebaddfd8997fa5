"""A small classifier that evaluations train themselves, on real pictures or on generated ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from distgen.core.seeding import derive
from distgen.core.storage import sha256_of
from distgen.metrics.cache import ArrayCache
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import BLOCK
from distgen.metrics.remember import remembered

SIDE = 32
"""Pixels: pictures with a longer side are averaged over areas to this one before it sees them."""
LAYOUT = "classifier v1"
"""Names the network and how it is trained; part of every digest."""

_WIDTHS = (32, 64, 128)
_PLACES = 4
_BATCH = 128
_LEARNING_RATE = 4e-3
_WEIGHT_DECAY = 0.02
_DROPOUT = 0.2
_TELL_EVERY = 20
# Random changes to the pictures that it is trained on: none turns one class into another.
_ROTATE_DEGREES, _SCALE, _SHIFT = 3.0, 0.03, 0.03

Progress = Callable[[str], None]


class Classifier(nn.Module):
    """Three convolutions with batch normalisation, the means over 4x4 places, and a line."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        small, middle, large = _WIDTHS
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(channels, small, 5, stride=2, padding=2, bias=False),
                nn.Conv2d(small, middle, 3, padding=1, bias=False),
                nn.Conv2d(middle, large, 3, stride=2, padding=1, bias=False),
            ]
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in _WIDTHS)
        self.dropout = nn.Dropout(_DROPOUT)
        self.line = nn.Linear(large * _PLACES**2, classes)

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Logits `[n, classes]` of pictures in [-1, 1]."""
        hidden = images_nchw
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = F.relu(norm(convolution(hidden)))
        pooled = F.adaptive_avg_pool2d(hidden, _PLACES).flatten(1)
        logits: Tensor = self.line(self.dropout(pooled))
        return logits


@dataclass(frozen=True)
class Lesson:
    """What a classifier is trained on."""

    identity: str
    """Names the pictures and their labels."""
    channels: int
    classes: int
    images: int
    """Pictures that it sees in training, repetitions counted."""

    @property
    def digest(self) -> str:
        """Identity of the classifier: network, training and pictures, not its last bits."""
        return sha256_of(
            f"{LAYOUT} {self.channels} {self.classes} {self.images} {self.identity}".encode()
        )


def taught(
    lesson: Lesson,
    examples: Callable[[], tuple[np.ndarray, np.ndarray]],
    *,
    of: str,
    device: torch.device,
    ranks: Ranks,
    cache: ArrayCache | None,
) -> Classifier:
    """The classifier of a lesson, the same on every rank. Collective.

    Rank 0 trains it, unless it remembers the lesson.

    Args:
        lesson: What it is trained on.
        examples: Gives pictures uint8 `[n, H, W, C]` as `shrink` leaves them, and labels `[n]`;
            called on rank 0 and only where it has to be trained.
        of: What they are, in the words of those who wait for it.
        device: Where it computes.
        ranks: Who shares it.
        cache: Rank 0's, where it is remembered; None: it will not be asked for again.
    """

    def compute() -> np.ndarray | None:
        if not ranks.world.is_main:
            return None
        images_nhwc, labels_n = examples()

        def tell(detail: str) -> None:
            ranks.on_progress(f"classifier of {of} {detail}")

        network = train(lesson, images_nhwc, labels_n, device, tell)
        state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
        return np.frombuffer(save(state), dtype=np.uint8)

    stored = remembered(lesson.digest, compute, ranks, cache)
    network = _fresh(lesson)
    network.load_state_dict(load(stored.tobytes()))
    return network.to(device).eval().requires_grad_(False)


def train(
    lesson: Lesson,
    images_nhwc: np.ndarray,
    labels_n: np.ndarray,
    device: torch.device,
    on_progress: Progress = lambda detail: None,  # noqa: ARG005
) -> Classifier:
    """A classifier trained by AdamW on one cycle of the learning rate (Smith & Topin 2018).

    Pictures, their order and their changes depend on the lesson alone.

    Args:
        lesson: What it is trained on.
        images_nhwc: uint8, of at most `SIDE` pixels a side.
        labels_n: Their classes.
        device: Where it computes.
        on_progress: Told how far it is.
    """
    seed = derive(0, LAYOUT, lesson.identity)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        # Dropout draws from torch's own generator, which is given back afterwards.
        torch.manual_seed(seed)
        network = _fresh(lesson).to(device)
        batch = min(_BATCH, len(images_nhwc))
        steps = math.ceil(lesson.images / batch)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=_LEARNING_RATE, total_steps=max(steps, 2)
        )
        images, labels = torch.from_numpy(images_nhwc), torch.from_numpy(labels_n)
        waiting = torch.empty(0, dtype=torch.int64)
        network.train()
        for step in range(steps):
            if len(waiting) < batch:
                again = torch.randperm(len(images), generator=generator)
                waiting = torch.cat([waiting, again])
            chosen, waiting = waiting[:batch], waiting[batch:]
            inputs = changed(to_inputs(images[chosen]), generator).to(device)
            loss = F.cross_entropy(network(inputs), labels[chosen].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if step % _TELL_EVERY == 0:
                on_progress(f"{min(step * batch, lesson.images):,}/{lesson.images:,}")
    return network.eval()


@torch.inference_mode()
def recognise(network: Classifier, images_nhwc: np.ndarray) -> np.ndarray:
    """The likeliest class of each uint8 picture, int64 `[n]`."""
    device = next(network.parameters()).device
    inputs = to_inputs(torch.from_numpy(np.ascontiguousarray(shrink(images_nhwc)))).to(device)
    labels: np.ndarray = network(inputs).argmax(dim=1).cpu().numpy()
    return labels


def recognise_all(
    network: Classifier, images: Callable[[range], np.ndarray], count: int, ranks: Ranks, what: str
) -> np.ndarray:
    """The likeliest class of `count` pictures, each rank looking at its own, int64 `[count]`."""
    parts = [recognise(network, images(rows)) for rows in ranks.blocks(count, BLOCK, what)]
    return ranks.join(parts).astype(np.int64)


def shrink(images_nhwc: np.ndarray) -> np.ndarray:
    """Pictures averaged over areas until no side is longer than `SIDE`, uint8."""
    height, width = images_nhwc.shape[1:3]
    size = (min(height, SIDE), min(width, SIDE))
    if size == (height, width):
        return images_nhwc
    pixels_nchw = torch.from_numpy(np.ascontiguousarray(images_nhwc)).permute(0, 3, 1, 2).float()
    smaller = F.interpolate(pixels_nchw, size=size, mode="area").round()
    result: np.ndarray = smaller.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return result


def to_inputs(images_nhwc: Tensor) -> Tensor:
    """Bytes as the network sees them, `[n, C, H, W]` in [-1, 1]."""
    return images_nhwc.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def changed(images_nchw: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures turned, scaled and moved a little, each by numbers of its own."""
    count = len(images_nchw)
    draws = torch.rand(4, count, generator=generator) * 2.0 - 1.0
    angle = draws[0] * math.radians(_ROTATE_DEGREES)
    scale = 1.0 + draws[1] * _SCALE
    # Shares of the side; affine grids measure from -1 to 1.
    across, down = 2.0 * _SHIFT * draws[2], 2.0 * _SHIFT * draws[3]
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [
        torch.stack([cosine, -sine, across], dim=1),
        torch.stack([sine, cosine, down], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images_nchw.shape), align_corners=False)
    return F.grid_sample(images_nchw, grid, padding_mode="border", align_corners=False)


def _fresh(lesson: Lesson) -> Classifier:
    network = Classifier(lesson.channels, lesson.classes)
    # Convolutions are a third faster in this layout.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
