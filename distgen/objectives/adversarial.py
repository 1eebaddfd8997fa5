"""Adversarial objectives: two phases per batch, each one loss with its gradient penalties in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional as F

from distgen.core.config import Config
from distgen.core.spans import span
from distgen.objectives.base import Phase, TrainBatch
from distgen.objectives.twice import TwiceDifferentiable, inputs_only

DISCRIMINATOR = Phase("discriminator", ("discriminator",), differentiated_twice=("discriminator",))
GENERATOR = Phase("generator", ("generator",))

R1 = Annotated[
    NonNegativeFloat, Field(description="Weight of half the squared gradient norm, real pictures.")
]
R2 = Annotated[
    NonNegativeFloat, Field(description="Weight of the same penalty on generated pictures.")
]


class RelativisticConfig(Config):
    """Relativistic pairing with R1 and R2 (Jolicoeur-Martineau 2019; Huang et al. 2024, R3GAN)."""

    families: ClassVar[tuple[str, ...]] = ("gan",)
    kind: Literal["relativistic"] = "relativistic"
    r1: R1 = 1.0
    r2: R2 = 1.0


class NonSaturatingConfig(Config):
    """The non-saturating loss (Goodfellow et al. 2014), with R1 (Mescheder et al. 2018)."""

    families: ClassVar[tuple[str, ...]] = ("gan",)
    kind: Literal["non-saturating"] = "non-saturating"
    r1: R1 = 1.0
    r2: R2 = 0.0


class HingeConfig(Config):
    """The hinge loss (Lim & Ye 2017), with R1 in the place of spectral normalisation."""

    families: ClassVar[tuple[str, ...]] = ("gan",)
    kind: Literal["hinge"] = "hinge"
    r1: R1 = 1.0
    r2: R2 = 0.0


class WassersteinConfig(Config):
    """Wasserstein distance with a gradient penalty (Gulrajani et al. 2017)."""

    families: ClassVar[tuple[str, ...]] = ("gan",)
    kind: Literal["wgan-gp"] = "wgan-gp"
    gradient_penalty: NonNegativeFloat = 10.0
    """Weight of (norm - 1)^2 of the critic's gradient between real and generated pictures."""
    drift: NonNegativeFloat = 1e-3
    """Weight of the squared scores of real pictures, which keeps them near zero (Karras 2018)."""


AdversarialConfig = RelativisticConfig | NonSaturatingConfig | HingeConfig | WassersteinConfig


def discriminator_losses(kind: str, real_n: Tensor, fake_n: Tensor) -> Tensor:
    """What the discriminator minimises, per pair [n], from its scores."""
    if kind == "relativistic":
        return F.softplus(fake_n - real_n)
    if kind == "non-saturating":
        return F.softplus(fake_n) + F.softplus(-real_n)
    if kind == "hinge":
        return F.relu(1.0 + fake_n) + F.relu(1.0 - real_n)
    return fake_n - real_n


def generator_losses(kind: str, fake_n: Tensor, real_n: Tensor | None = None) -> Tensor:
    """What the generator minimises, per picture [n]; relativistic pairing also gives `real_n`."""
    margin_n = fake_n if real_n is None else fake_n - real_n
    return F.softplus(-margin_n) if kind in ("relativistic", "non-saturating") else -margin_n


def squared_gradient_norms(scores_n: Tensor, images_nchw: Tensor) -> Tensor:
    """Squared norm of each picture's score gradient [n], itself differentiable.

    One picture's score depends on that picture alone, so the sum's gradient holds them all.
    """
    with span("discriminator: gradient for penalties"), inputs_only():
        (gradients_nchw,) = torch.autograd.grad(scores_n.sum(), images_nchw, create_graph=True)
        return gradients_nchw.square().flatten(1).sum(1)


@dataclass(frozen=True)
class Adversarial:
    """A discriminator step, then a generator step, on fresh latents each.

    Args:
        config: Which loss, with which penalties.
        latent_dim: Size of the generator's latent vector.
    """

    config: AdversarialConfig
    latent_dim: int
    phases: ClassVar[tuple[Phase, ...]] = (DISCRIMINATOR, GENERATOR)

    def loss(
        self, phase: Phase, networks: Mapping[str, nn.Module], batch: TrainBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The phase's loss and its parts (see `Objective.loss`)."""
        latents_nd = batch.noise.normal(f"latents/{phase.name}", self.latent_dim)
        generator, discriminator = networks["generator"], networks["discriminator"]
        if phase == GENERATOR:
            return self._generator_loss(generator, discriminator, latents_nd, batch)
        with torch.no_grad():
            fake_nchw = generator(latents_nd, batch.labels_n).float()
        if isinstance(self.config, WassersteinConfig):
            return _critic_loss(self.config, discriminator, fake_nchw, batch)
        return _discriminator_loss(self.config, discriminator, fake_nchw, batch)

    def _generator_loss(
        self, generator: nn.Module, discriminator: nn.Module, latents_nd: Tensor, batch: TrainBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        real_n = None
        if self.config.kind == "relativistic":
            with torch.no_grad():
                real_n = discriminator(batch.images_nchw, batch.labels_n).float()
        fake_n = discriminator(generator(latents_nd, batch.labels_n), batch.labels_n).float()
        loss = generator_losses(self.config.kind, fake_n, real_n).mean()
        return loss, {"loss": loss.detach(), "fake_score": fake_n.detach().mean()}


def _discriminator_loss(
    config: RelativisticConfig | NonSaturatingConfig | HingeConfig,
    discriminator: nn.Module,
    fake_nchw: Tensor,
    batch: TrainBatch,
) -> tuple[Tensor, dict[str, Tensor]]:
    penalised = config.r1 > 0 or config.r2 > 0
    images = torch.cat((batch.images_nchw, fake_nchw)).requires_grad_(penalised)
    labels = None if batch.labels_n is None else batch.labels_n.repeat(2)
    # bfloat16 has too few digits for the gradient of a gradient.
    with torch.autocast(images.device.type, enabled=False) if penalised else nullcontext():
        with TwiceDifferentiable() if penalised else nullcontext():
            scores = discriminator(images, labels).float()
        real_n, fake_n = scores.chunk(2)
        adversarial = discriminator_losses(config.kind, real_n, fake_n).mean()
        logs = {"real_score": real_n.mean(), "fake_score": fake_n.mean()}
        loss = adversarial
        if penalised:
            real_norms, fake_norms = squared_gradient_norms(scores, images).chunk(2)
            logs |= {"r1": real_norms.mean(), "r2": fake_norms.mean()}
            loss = loss + 0.5 * (config.r1 * logs["r1"] + config.r2 * logs["r2"])
    return loss, _detached({"loss": loss, "adversarial": adversarial, **logs})


def _critic_loss(
    config: WassersteinConfig, critic: nn.Module, fake_nchw: Tensor, batch: TrainBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    real_nchw = batch.images_nchw
    shares = batch.noise.uniform("interpolation", 1, 1, 1)
    between = torch.lerp(real_nchw, fake_nchw, shares).requires_grad_()
    labels = None if batch.labels_n is None else batch.labels_n.repeat(3)
    with torch.autocast(between.device.type, enabled=False):
        with TwiceDifferentiable():
            scores = critic(torch.cat((real_nchw, fake_nchw, between)), labels).float()
        real_n, fake_n, between_n = scores.chunk(3)
        distance = (real_n - fake_n).mean()
        # The root is not differentiable at zero.
        norms = (squared_gradient_norms(between_n, between) + 1e-12).sqrt()
        penalty = (norms - 1.0).square().mean()
        loss = -distance + config.gradient_penalty * penalty + config.drift * real_n.square().mean()
    return loss, _detached({"loss": loss, "distance": distance, "penalty": penalty})


def _detached(logs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in logs.items()}
