"""The evidence lower bound of latent-variable models, with the usual ways to shape its KL term."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn

from distgen.core.config import Config
from distgen.models.base import LatentNoise, LatentTerms
from distgen.objectives.base import Objective, Phase, TrainBatch

MODEL = Phase("model", ("model",))


class ELBOConfig(Config):
    """Evidence lower bound (Kingma & Welling 2014)."""

    families: ClassVar[tuple[str, ...]] = ("vae", "hvae", "rvae")
    kind: Literal["elbo"] = "elbo"
    beta: NonNegativeFloat = 1.0
    """Weight of the KL term (Higgins et al. 2017); 1 is the bound itself."""
    kl_warmup_images: NonNegativeInt = 0
    """Images over which the KL term's weight rises linearly from 0 to beta."""
    free_bits: NonNegativeFloat = 0.0
    """Nats of KL per picture that cost nothing more (Kingma et al. 2016): of each latent dimension
    where a model has one group of latents, of each group where it has several."""


class KLWeight(Protocol):
    """The part of an objective that says how much the KL term weighs."""

    @property
    def beta(self) -> float:
        """As in `ELBOConfig`."""
        ...

    @property
    def kl_warmup_images(self) -> int:
        """As in `ELBOConfig`."""
        ...


def kl_weight(config: KLWeight, images_seen: int) -> float:
    """The KL term's weight at this point of the clock."""
    if images_seen >= config.kl_warmup_images:
        return config.beta
    return config.beta * images_seen / config.kl_warmup_images


def charged_kl(kl_nd: Tensor, free_bits: float, latent_groups: tuple[int, ...] = ()) -> Tensor:
    """KL per picture [n], with at least `free_bits` charged for each dimension.

    Where there are several groups, each of them is charged at least that much: most dimensions of
    a feature map hold nothing of most pictures, and none of them has to.

    The floor applies to each picture, not to the batch's mean as in the paper, so that the loss
    does not depend on how a batch is spread over ranks.
    """
    if free_bits <= 0:
        return kl_nd.sum(1)
    if len(latent_groups) > 1:
        kl_nd = kl_by_group(kl_nd, latent_groups)
    return kl_nd.clamp_min(free_bits).sum(1)


def kl_by_group(kl_nd: Tensor, latent_groups: tuple[int, ...]) -> Tensor:
    """KL of each group [n, groups]."""
    parts = torch.split(kl_nd, list(latent_groups), dim=1)
    return torch.stack([part.sum(1) for part in parts], dim=1)


@dataclass(frozen=True)
class ELBO(Objective):
    """One phase: the negative bound, in nats per picture.

    Args:
        config: How the KL term is shaped.
        latent_dim: Size of the model's latent vector.
        latent_groups: How it is divided, where there are several groups.
    """

    config: ELBOConfig
    latent_dim: int
    latent_groups: tuple[int, ...] = ()
    phases: ClassVar[tuple[Phase, ...]] = (MODEL,)

    def loss(
        self,
        phase: Phase,  # noqa: ARG002
        networks: Mapping[str, nn.Module],
        batch: TrainBatch,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The shaped negative bound; logs hold the plain one (`bound`) and its two terms.

        Of a model with several groups, the logs hold the KL of each: `kl_group_1` is drawn first.
        """
        noise = LatentNoise(
            uniforms_nchw=batch.noise.uniform("observation", *batch.images_nchw.shape[1:]),
            normals_nd=batch.noise.normal("posterior", self.latent_dim),
        )
        terms: LatentTerms = networks["model"](batch.images_nchw, noise)
        reconstruction = -terms.log_likelihood_n.mean()
        kl = terms.kl_nd.sum(1).mean()
        charged = charged_kl(terms.kl_nd, self.config.free_bits, self.latent_groups).mean()
        weight = kl_weight(self.config, batch.images_seen)
        loss = reconstruction + weight * charged
        by_group = {}
        if len(self.latent_groups) > 1:
            means = kl_by_group(terms.kl_nd.detach(), self.latent_groups).mean(0)
            by_group = {f"kl_group_{number}": mean for number, mean in enumerate(means, 1)}
        return loss, {
            "loss": loss.detach(),
            "bound": (reconstruction + kl).detach(),
            "reconstruction": reconstruction.detach(),
            "kl": kl.detach(),
            "kl_weight": torch.full((), weight, device=loss.device),
            **by_group,
        }
