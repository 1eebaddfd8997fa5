"""A model that makes what a test tells it to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distgen.data import ShardSet
from distgen.metrics.cache import ArrayCache
from distgen.metrics.ranks import Ranks
from distgen.metrics.subject import Subject


class Told(nn.Module):
    """Makes picture `number(latents)` of a list, or of the list of the class that is asked for."""

    latent_dim = 2

    def __init__(self, pictures_nhwc: np.ndarray, labels_n: np.ndarray | None = None) -> None:
        super().__init__()
        images = torch.from_numpy(pictures_nhwc).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        self.pictures = images
        self.by_class = None
        if labels_n is not None:
            self.by_class = [np.flatnonzero(labels_n == c) for c in range(labels_n.max() + 1)]
        self.num_classes = 0 if self.by_class is None else len(self.by_class)

    def sample(self, latents_nd: Tensor, labels_n: Tensor | None = None) -> Tensor:
        """Pictures picked by the first latent, uniformly."""
        shares = torch.special.ndtr(latents_nd[:, 0].double()).numpy()
        if self.by_class is None:
            return self.pictures[(shares * len(self.pictures)).astype(int)]
        lists = [self.by_class[label] for label in labels_n.tolist()]
        chosen = [each[int(u * len(each))] for each, u in zip(lists, shares, strict=True)]
        return self.pictures[chosen]


@pytest.fixture
def subject(tmp_path) -> Callable[..., Subject]:
    """Makes subjects: `subject(model, data, held_out)`."""

    def make(
        model: nn.Module,
        data: ShardSet,
        held_out: ShardSet | None,
        cache: ArrayCache | None = None,
    ) -> Subject:
        return Subject(
            model,
            data,
            held_out,
            seed=0,
            device=torch.device("cpu"),
            ranks=Ranks(),
            cache=cache or ArrayCache(tmp_path / "cache"),
        )

    return make
