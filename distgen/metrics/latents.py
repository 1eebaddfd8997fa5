"""What a latent-variable model's latents hold: KL by group, active units, rate and distortion."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distgen.metrics.likelihood import load_images, normals_by_index, observe_by_index
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import BLOCK, PictureSet
from distgen.metrics.scores import Part
from distgen.models import LatentReader, LatentVariableModel

ACTIVE_VARIANCE = 0.01
"""A latent whose posterior mean varies by more over the pictures is active (Burda et al. 2016)."""
STRONGEST = 16
"""Latents of each group that a card names."""


class Strength(Part):
    """One latent, and what is known of a picture by it."""

    index: int
    """Its place in the vector that the model is sampled with."""
    kl_nats: float
    """Mean KL of its posterior to its prior."""


class LatentGroupScores(Part):
    """One layer or time step of latents."""

    size: int
    """Latents in it."""
    kl_nats: float
    """Mean KL to the prior over the pictures, all its latents together."""
    active: int
    """Latents whose posterior mean varies over the pictures with more than the threshold."""
    strongest: tuple[Strength, ...]
    """Those with the most KL, the first first."""


class RatePoint(Part):
    """A picture told by some of its latents, the others drawn from the prior."""

    kept: int
    """Latents that are told: those with the most KL."""
    rate_nats: float
    """Mean KL of these: what telling them costs."""
    distortion_nats: float
    """Mean -log p(x|z) with the others drawn from the prior."""


class LatentScores(Part):
    """What the latents hold of pictures that the model was not trained on.

    Rate and distortion are those of Alemi et al. 2018 for the model as it is: the KL and
    -log p(x|z); their sum is the negative evidence lower bound. The curve goes from all latents to
    none, by leaving away those with the least KL first. It is no curve over trainings with other
    weights of the KL.
    """

    rate_nats: float
    """Mean KL to the prior; what a picture's latents cost."""
    distortion_nats: float
    """Mean -log p(x|z); what a picture costs once its latents are known."""
    active: int
    """Active units of all groups. Of a hierarchy, means are those given the means above."""
    active_variance: float
    """The threshold: variance of a posterior mean over the pictures."""
    groups: tuple[LatentGroupScores, ...]
    """In drawing order."""
    curve: tuple[RatePoint, ...]
    """From no latent kept to all."""
    images: int
    """Number of pictures."""
    split: str
    """Where they come from."""

    @property
    def size(self) -> int:
        """Latents of all groups."""
        return sum(group.size for group in self.groups)


@torch.no_grad()
def measure(
    model: LatentVariableModel,
    chosen: PictureSet,
    *,
    seed: int,
    device: torch.device,
    ranks: Ranks,
) -> LatentScores | None:
    """Scores over the chosen pictures, each rank looking at its own; the same on every rank.

    A picture's posterior sample depends on (seed, its index) alone. None for a model whose latents
    cannot be read one by one.
    """
    if not isinstance(model, LatentReader):
        return None
    size, count = model.latent_dim, len(chosen)
    reading = _Reading(model, chosen, seed, device)
    sums = [
        reading.moments(rows)[None].cpu().numpy()
        for rows in ranks.blocks(count, BLOCK, "latents of")
    ]
    kl_d, mean_d, square_d = ranks.join(sums, (3, size)).sum(axis=0) / max(1, count)
    active_d = square_d - mean_d**2 > ACTIVE_VARIANCE
    order_d = np.argsort(-kl_d, kind="stable")

    kept = steps(size)
    sums = [
        reading.curve(rows, order_d, kept)[None].cpu().numpy()
        for rows in ranks.blocks(count, BLOCK, "rate and distortion of")
    ]
    points = ranks.join(sums, (len(kept), 2)).sum(axis=0) / max(1, count)
    curve = tuple(
        RatePoint(kept=number, rate_nats=float(rate), distortion_nats=float(distortion))
        for number, (rate, distortion) in zip(kept, points, strict=True)
    )
    return LatentScores(
        rate_nats=curve[-1].rate_nats,
        distortion_nats=curve[-1].distortion_nats,
        active=int(active_d.sum()),
        active_variance=ACTIVE_VARIANCE,
        groups=_groups(model.latent_groups, kl_d, active_d),
        curve=curve,
        images=count,
        split=chosen.split,
    )


def steps(size: int) -> tuple[int, ...]:
    """How many latents the points of a curve keep: none, powers of two, and all."""
    powers = (1 << power for power in range(size.bit_length()))
    return (0, *(power for power in powers if power < size), size)


class _Reading:
    """One model and its pictures, looked at block by block."""

    def __init__(
        self, model: LatentReader, chosen: PictureSet, seed: int, device: torch.device
    ) -> None:
        self.model = model
        self.chosen = chosen
        self.seed = seed
        self.device = device

    def moments(self, rows: range) -> Tensor:
        """Sums over a block of KL, posterior mean and its square, float64 `[3, latent_dim]`."""
        observed, encoding, normals_nd = self._load(rows)
        _, terms = self.model.draw(observed, encoding, normals_nd)
        means_nd, _ = self.model.draw(observed, encoding, torch.zeros_like(normals_nd))
        means_nd = means_nd.double()
        return torch.stack([terms.kl_nd.double().sum(0), means_nd.sum(0), means_nd.square().sum(0)])

    def curve(self, rows: range, order_d: np.ndarray, kept: tuple[int, ...]) -> Tensor:
        """Sums over a block of rate and distortion at each point, float64 `[points, 2]`."""
        observed, encoding, normals_nd = self._load(rows)
        points = []
        for number in kept:
            mask_d = torch.zeros(self.model.latent_dim, dtype=torch.bool)
            mask_d[torch.from_numpy(order_d[:number].copy())] = True
            _, terms = self.model.draw(observed, encoding, normals_nd, mask_d.to(self.device))
            points.append(
                torch.stack([terms.kl_nd.double().sum(), -terms.log_likelihood_n.double().sum()])
            )
        return torch.stack(points)

    def _load(self, rows: range) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        images, indices = load_images(self.chosen, rows, self.device)
        observed = observe_by_index(self.model, images, indices)
        normals_nd = normals_by_index(self.seed, indices, self.model.latent_dim).to(self.device)
        return observed, self.model.encode(observed), normals_nd


def _groups(
    sizes: tuple[int, ...], kl_d: np.ndarray, active_d: np.ndarray
) -> tuple[LatentGroupScores, ...]:
    groups = []
    start = 0
    for size in sizes:
        kl = kl_d[start : start + size]
        strongest = np.argsort(-kl, kind="stable")[:STRONGEST]
        groups.append(
            LatentGroupScores(
                size=size,
                kl_nats=float(kl.sum()),
                active=int(active_d[start : start + size].sum()),
                strongest=tuple(
                    Strength(index=start + int(i), kl_nats=float(kl[i])) for i in strongest
                ),
            )
        )
        start += size
    return tuple(groups)
