"""A quick look at what a network makes: how different its pictures are, and how far from real ones.

Some 64 thumbnails, a fraction of a step's work: far too few to rank models by, and enough to see
a model that has collapsed or diverged long before the next quality card.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distgen.core.seeding import derive
from distgen.data import ShardSet, read_samples
from distgen.data.streaming.bad import Tolerance
from distgen.metrics.generated import evaluating
from distgen.models.base import Sampler

REALS, FAKES = 256, 64
SIDE = 16
"""Height and width of a thumbnail."""
DIMENSIONS = 16
"""Directions of largest variance in which distances are measured."""
_FEWEST_PAIRS = 32


@dataclass(frozen=True)
class Reals:
    """Real pictures as the probe remembers them."""

    thumbnails_nd: Tensor
    labels_n: Tensor
    """Their classes; -1 where there is none."""
    mean_d: Tensor
    directions_dk: Tensor
    """Principal directions, those of largest variance."""
    spread_k: Tensor
    """Standard deviations along them."""
    rest: Tensor
    """What they leave of the pictures: root of the variance in all other directions together []."""

    @classmethod
    def of(cls, images: Tensor, labels_n: Tensor) -> Reals:
        """From pictures [n, ..., channels, height, width] in [-1, 1]."""
        thumbnails_nd = thumbnails(images)
        mean_d = thumbnails_nd.mean(0)
        wanted = min(DIMENSIONS, len(thumbnails_nd) - 1, thumbnails_nd.shape[1])
        directions_dk = torch.linalg.svd(thumbnails_nd - mean_d, full_matrices=False)[2][:wanted].T
        return cls(
            thumbnails_nd, labels_n, mean_d, directions_dk, *_spreads(thumbnails_nd, directions_dk)
        )


@dataclass(frozen=True)
class Glance:
    """What one look at a network's pictures saw."""

    diversity: float
    """Mean distance of two generated pictures (of one class) over that of two real ones."""
    distance: float
    """Quick distance to real pictures."""


def thumbnails(images: Tensor) -> Tensor:
    """Pictures [n, ..., channels, height, width] in [-1, 1] as vectors of small ones, on the CPU.

    Values that are not numbers, and those out of range, become the nearest that is in range.
    """
    images = images.detach().float().cpu()
    flat = images.reshape(-1, *images.shape[-3:])
    if max(flat.shape[-2:]) > SIDE:
        flat = F.adaptive_avg_pool2d(flat, SIDE)
    return flat.nan_to_num(1.0, 1.0, -1.0).clamp(-1.0, 1.0).reshape(len(images), -1)


def quick_distance(reals: Reals, thumbnails_nd: Tensor) -> float:
    """Fréchet distance of two simple Gaussians, over the variance of real pictures.

    They have full means, the reals' principal directions as independent axes, and one spread for
    all other directions together. Pictures that are all the same grey are at 1, all the same real
    picture at 2 on average, and 64 real ones at a few hundredths.
    """
    spread_k, rest = _spreads(thumbnails_nd, reals.directions_dk)
    distance = (
        (thumbnails_nd.mean(0) - reals.mean_d).square().sum()
        + (spread_k - reals.spread_k).square().sum()
        + (rest - reals.rest).square()
    )
    variance = reals.spread_k.square().sum() + reals.rest.square()
    return float(distance / variance.clamp_min(1e-12))


def _spreads(thumbnails_nd: Tensor, directions_dk: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations along some directions [k], and of all others together []."""
    centred_nd = thumbnails_nd - thumbnails_nd.mean(0)
    spread_k = (centred_nd @ directions_dk).std(0)
    total = centred_nd.square().sum() / (len(centred_nd) - 1)
    return spread_k, (total - spread_k.square().sum()).clamp_min(0.0).sqrt()


def pair_distance(thumbnails_nd: Tensor, labels_n: Tensor | None) -> tuple[float, int]:
    """Mean distance of two different pictures, of the same class where there are labels.

    Returns:
        The distance and the number of pairs.
    """
    distances_nn = torch.cdist(thumbnails_nd, thumbnails_nd)
    chosen_nn = torch.ones_like(distances_nn, dtype=torch.bool).triu(1)
    if labels_n is not None:
        chosen_nn &= labels_n[:, None] == labels_n[None, :]
    pairs = int(chosen_nn.sum())
    return (float(distances_nn[chosen_nn].mean()) if pairs else 0.0), pairs


def glance(reals: Reals, fakes: Tensor, labels_n: Tensor | None) -> Glance:
    """Compare generated pictures with real ones.

    Args:
        reals: The real ones.
        fakes: Generated pictures [n, ..., channels, height, width] in [-1, 1].
        labels_n: Their classes, for a conditional model: one that draws a single picture of each
            class has collapsed, however different classes are.
    """
    thumbnails_nd = thumbnails(fakes)
    real, real_pairs = pair_distance(reals.thumbnails_nd, reals.labels_n)
    fake, fake_pairs = pair_distance(thumbnails_nd, labels_n)
    if labels_n is None or min(real_pairs, fake_pairs) < _FEWEST_PAIRS:
        real, fake = (
            pair_distance(vectors, None)[0] for vectors in (reals.thumbnails_nd, thumbnails_nd)
        )
    return Glance(fake / max(real, 1e-12), quick_distance(reals, thumbnails_nd))


class Probe:
    """Looks at a network's pictures from the same latents and classes each time.

    Args:
        shard_set: Real pictures; some are read at the first look.
        seed: Seed of the choice and of the latents.
        tolerance: What damaged samples do.
    """

    def __init__(self, shard_set: ShardSet, seed: int, tolerance: Tolerance) -> None:
        self._shard_set = shard_set
        self._seed = seed
        self._tolerance = tolerance
        self._reals: Reals | None = None

    @torch.no_grad()
    def look(self, network: nn.Module, device: torch.device) -> Glance | None:
        """What the network makes now; None where the set has too few pictures to compare with."""
        if not isinstance(network, Sampler):
            raise TypeError(f"{type(network).__name__} cannot be sampled")
        if self._shard_set.num_samples < 4:
            return None
        reals = self._reals = self._reals or self._read()
        generator = torch.Generator().manual_seed(derive(self._seed, "health"))
        latents_nd = torch.randn(FAKES, network.latent_dim, generator=generator)
        labels_n = None
        if network.num_classes:
            labels_n = reals.labels_n.clamp_min(0)[torch.arange(FAKES) % len(reals.labels_n)]
        with evaluating(network):
            on_device = None if labels_n is None else labels_n.to(device)
            fakes = network.sample(latents_nd.to(device), on_device)
        return glance(reals, fakes, labels_n)

    def _read(self) -> Reals:
        random = np.random.default_rng(derive(self._seed, "health"))
        count = min(REALS, self._shard_set.num_samples)
        chosen = np.sort(random.choice(self._shard_set.num_samples, count, replace=False))
        images, labels_n = read_samples(self._shard_set, chosen, tolerance=self._tolerance)
        # In the order of the set, neighbours may be of one class.
        order = random.permutation(count)
        pictures = torch.from_numpy(images[order]).movedim(-1, -3).float() / 127.5 - 1.0
        return Reals.of(pictures, torch.from_numpy(labels_n[order]))


@torch.no_grad()
def length(weights: Iterable[Tensor]) -> Tensor:
    """Euclidean length of all weights together: a scalar on their device."""
    norms = torch._foreach_norm([weight.float() for weight in weights])
    total: Tensor = torch.stack(list(norms)).norm()
    return total


@torch.no_grad()
def weights_finite(networks: Iterable[nn.Module]) -> bool:
    """Whether every weight of these networks is a finite number."""
    lengths = [length(network.parameters()) for network in networks]
    return bool(torch.isfinite(torch.stack(lengths)).all())


class Stride:
    """Measures how far one step moves a network, over the length of its weights.

    Args:
        networks: What the step trains, by name.
    """

    def __init__(self, networks: dict[str, nn.Module]) -> None:
        self._networks = networks
        self._before = {
            name: [weight.detach().clone() for weight in network.parameters()]
            for name, network in networks.items()
        }

    @torch.no_grad()
    def ratios(self) -> dict[str, float]:
        """The ratio for each network, after the step."""
        found = {}
        for name, network in self._networks.items():
            moved = torch._foreach_sub(list(network.parameters()), self._before[name])
            total = length(self._before[name]).clamp_min(1e-12)
            found[name] = float(length(moved) / total)
        return found
