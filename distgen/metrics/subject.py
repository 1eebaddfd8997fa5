"""What an evaluation looks at, for the figures that are measured on request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from distgen.core.seeding import derive
from distgen.data import ShardSet
from distgen.data.streaming.bad import Tolerance
from distgen.metrics.cache import ArrayCache
from distgen.metrics.generated import PictureMaker, labels_like
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import PictureSet, choose_pictures
from distgen.models import Sampler


@dataclass(frozen=True)
class Subject:
    """A model and the pictures that it is measured against."""

    model: Sampler
    """In evaluation mode, on `device`."""
    data: ShardSet
    """The training pictures."""
    held_out: ShardSet | None
    """Pictures that were not trained on."""
    seed: int
    """Of the generated pictures."""
    device: torch.device
    ranks: Ranks
    cache: ArrayCache
    tolerance: Tolerance = Tolerance()  # noqa: RUF009 - frozen

    def training(self, count: int, purpose: str) -> PictureSet:
        """`count` training pictures, or all, the same for every model."""
        return choose_pictures(self.data, count, "train", purpose, self.tolerance)

    def others(self, count: int, purpose: str) -> PictureSet | None:
        """`count` held-out pictures, or all."""
        if self.held_out is None:
            return None
        return choose_pictures(self.held_out, count, "test", purpose, self.tolerance)

    def maker(self, purpose: str, labels_n: np.ndarray) -> PictureMaker:
        """Makes pictures for one purpose, of these classes where the model has classes."""
        labels = labels_like(labels_n, self.model.num_classes)
        return PictureMaker(self.model, labels, derive(self.seed, purpose), self.device)
