"""Pictures that a model makes to be measured by: number i is a function of (seed, i).

Of a model of clips, picture i is one frame of clip i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from distgen.core.seeding import derive
from distgen.metrics.grid import to_uint8_nhwc
from distgen.models import Sampler


@dataclass
class PictureMaker:
    """Makes pictures by number, and counts those with values that are not numbers.

    Args:
        model: The served network, in evaluation mode.
        labels_n: A label for every number, or None for an unconditional model.
        seed: Seed of the latents.
        device: Where the model is.
        frames_n: Of a model of clips, which frame is wanted of each number.
    """

    model: Sampler
    labels_n: np.ndarray | None
    seed: int
    device: torch.device
    frames_n: np.ndarray | None = None
    not_finite: int = 0

    @torch.no_grad()
    def pictures(self, numbers: range) -> np.ndarray:
        """These pictures, uint8 `[n, H, W, C]`."""
        latents = latents_for(self.seed, numbers, self.model.latent_dim).to(self.device)
        labels = None
        if self.labels_n is not None:
            chosen = self.labels_n[numbers.start : numbers.stop]
            labels = torch.from_numpy(chosen).to(self.device)
        images_nchw = self.model.sample(latents, labels)
        finite = torch.isfinite(images_nchw).flatten(1).all(dim=1)
        self.not_finite += int((~finite).sum())
        made = to_uint8_nhwc(images_nchw)
        if self.frames_n is None:
            return made
        chosen_n = self.frames_n[numbers.start : numbers.stop]
        pictures: np.ndarray = made[np.arange(len(made)), chosen_n]
        return pictures


def latents_for(seed: int, numbers: Sequence[int], latent_dim: int) -> Tensor:
    """Standard normal latents `[n, latent_dim]`, each row a function of (seed, its number)."""
    generator = torch.Generator()
    rows = [
        torch.randn(latent_dim, generator=generator.manual_seed(derive(seed, "evaluation", i)))
        for i in numbers
    ]
    return torch.stack(rows)


def labels_like(real_labels_n: np.ndarray, num_classes: int) -> np.ndarray | None:
    """Labels for a conditional model: those of the real pictures, or all classes in turn.

    None for an unconditional model (`num_classes` of 0).
    """
    if num_classes == 0:
        return None
    known = (real_labels_n >= 0) & (real_labels_n < num_classes)
    in_turn = np.arange(len(real_labels_n), dtype=np.int64) % num_classes
    return np.where(known, real_labels_n, in_turn).astype(np.int64)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode from before afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
