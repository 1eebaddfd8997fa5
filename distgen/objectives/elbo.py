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
from distgen.objectives.base import Phase, TrainBatch

MODEL = Phase("model", ("model",))


class ELBOConfig(Config):
    """Evidence lower bound (Kingma & Welling 2014)."""

    families: ClassVar[tuple[str, ...]] = ("vae", "rvae")
    kind: Literal["elbo"] = "elbo"
    beta: NonNegativeFloat = 1.0
    """Weight of the KL term (Higgins et al. 2017); 1 is the bound itself."""
    kl_warmup_images: NonNegativeInt = 0
    """Images over which the KL term's weight rises linearly from 0 to beta."""
    free_bits: NonNegativeFloat = 0.0
    """Nats of KL per latent dimension and picture that cost nothing more (Kingma et al. 2016)."""


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


def charged_kl(kl_nd: Tensor, free_bits: float) -> Tensor:
    """KL per picture [n], with at least `free_bits` charged for each dimension.

    The floor applies to each picture, not to the batch's mean as in the paper, so that the loss
    does not depend on how a batch is spread over ranks.
    """
    return kl_nd.clamp_min(free_bits).sum(1) if free_bits > 0 else kl_nd.sum(1)


@dataclass(frozen=True)
class ELBO:
    """One phase: the negative bound, in nats per picture.

    Args:
        config: How the KL term is shaped.
        latent_dim: Size of the model's latent vector.
    """

    config: ELBOConfig
    latent_dim: int
    phases: ClassVar[tuple[Phase, ...]] = (MODEL,)

    def loss(
        self,
        phase: Phase,  # noqa: ARG002
        networks: Mapping[str, nn.Module],
        batch: TrainBatch,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The shaped negative bound; logs hold the plain one (`bound`) and its two terms."""
        noise = LatentNoise(
            uniforms_nchw=batch.noise.uniform("observation", *batch.images_nchw.shape[1:]),
            normals_nd=batch.noise.normal("posterior", self.latent_dim),
        )
        terms: LatentTerms = networks["model"](batch.images_nchw, noise)
        reconstruction = -terms.log_likelihood_n.mean()
        kl = terms.kl_nd.sum(1).mean()
        charged = charged_kl(terms.kl_nd, self.config.free_bits).mean()
        weight = kl_weight(self.config, batch.images_seen)
        loss = reconstruction + weight * charged
        return loss, {
            "loss": loss.detach(),
            "bound": (reconstruction + kl).detach(),
            "reconstruction": reconstruction.detach(),
            "kl": kl.detach(),
            "kl_weight": torch.tensor(weight, device=loss.device),
        }
