"""Adversarial objectives: two phases per batch, each one loss with its gradient penalties in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional as F

from distgen.core.config import Config
from distgen.core.part import Part
from distgen.core.schedule import ScheduledNonNegative, value_at
from distgen.core.spans import span
from distgen.objectives.augmentation import Augmentation, AugmentationConfig
from distgen.objectives.base import Objective, Phase, TrainBatch
from distgen.objectives.twice import TwiceDifferentiable, inputs_only

DISCRIMINATOR = Phase("discriminator", ("discriminator",), differentiated_twice=("discriminator",))
GENERATOR = Phase("generator", ("generator",))

R1 = Annotated[
    ScheduledNonNegative,
    Field(description="Weight of half the squared gradient norm, real pictures; it may move."),
]
R2 = Annotated[
    ScheduledNonNegative,
    Field(description="Weight of the same penalty on generated pictures; it may move."),
]
Augmented = Annotated[
    AugmentationConfig | None,
    Field(description="Differentiable augmentation before the discriminator; off by default."),
]


class RelativisticConfig(Config):
    """Relativistic pairing with R1 and R2 (Jolicoeur-Martineau 2019; Huang et al. 2024, R3GAN)."""

    families: ClassVar[tuple[str, ...]] = ("gan",)
    kind: Literal["relativistic"] = "relativistic"
    r1: R1 = 1.0
    r2: R2 = 1.0
    augmentation: Augmented = None


class NonSaturatingConfig(Config):
    """The non-saturating loss (Goodfellow et al. 2014), with R1 (Mescheder et al. 2018)."""

    families: ClassVar[tuple[str, ...]] = ("gan",)
    kind: Literal["non-saturating"] = "non-saturating"
    r1: R1 = 1.0
    r2: R2 = 0.0
    augmentation: Augmented = None


class HingeConfig(Config):
    """The hinge loss (Lim & Ye 2017), with R1 in the place of spectral normalisation."""

    families: ClassVar[tuple[str, ...]] = ("gan",)
    kind: Literal["hinge"] = "hinge"
    r1: R1 = 1.0
    r2: R2 = 0.0
    augmentation: Augmented = None


class WassersteinConfig(Config):
    """Wasserstein distance with a gradient penalty (Gulrajani et al. 2017)."""

    families: ClassVar[tuple[str, ...]] = ("gan",)
    kind: Literal["wgan-gp"] = "wgan-gp"
    gradient_penalty: NonNegativeFloat = 10.0
    """Weight of (norm - 1)^2 of the critic's gradient between real and generated pictures."""
    drift: NonNegativeFloat = 1e-3
    """Weight of the squared scores of real pictures, which keeps them near zero (Karras 2018)."""
    augmentation: Augmented = None


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

    One picture's score depends on that picture alone, or also on the few that the discriminator
    compares it with; the sum's gradient holds them all.
    """
    with span("discriminator: gradient for penalties"), inputs_only():
        (gradients_nchw,) = torch.autograd.grad(scores_n.sum(), images_nchw, create_graph=True)
        return gradients_nchw.square().flatten(1).sum(1)


class Adversarial(Objective):
    """A discriminator step, then a generator step, on fresh latents each.

    Args:
        config: Which loss, with which penalties.
        latent_dim: Size of the generator's latent vector.
    """

    phases: ClassVar[tuple[Phase, ...]] = (DISCRIMINATOR, GENERATOR)

    def __init__(self, config: AdversarialConfig, latent_dim: int) -> None:
        self.config = config
        self.latent_dim = latent_dim
        wanted = config.augmentation
        self._augmentation = None if wanted is None else Augmentation(wanted)

    @property
    def parts(self) -> Mapping[str, Part]:
        """The augmentation's probability, where there is one."""
        return {} if self._augmentation is None else {"augmentation": self._augmentation}

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
            real_nchw = self._as_seen(batch.images_nchw, batch, "discriminator/real")
            fake_nchw = self._as_seen(fake_nchw, batch, "discriminator/fake")
        if isinstance(self.config, WassersteinConfig):
            loss, logs, verdicts_n = _critic_loss(
                self.config, discriminator, real_nchw, fake_nchw, batch
            )
        else:
            loss, logs, verdicts_n = _discriminator_loss(
                self.config, discriminator, real_nchw, fake_nchw, batch
            )
        if self._augmentation is not None:
            self._augmentation.observe(verdicts_n)
            logs["sign"] = verdicts_n.sign().mean()
            logs["augmentation"] = self._augmentation.probability
        return loss, logs

    def after_step(self, images: int, total: Callable[[Tensor], Tensor]) -> None:
        """Adapt the augmentation's probability."""
        if self._augmentation is not None:
            self._augmentation.adapt(images, total)

    def _generator_loss(
        self, generator: nn.Module, discriminator: nn.Module, latents_nd: Tensor, batch: TrainBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        real_n = None
        if self.config.kind == "relativistic":
            with torch.no_grad():
                real_nchw = self._as_seen(batch.images_nchw, batch, "generator/real")
                real_n = discriminator(real_nchw, batch.labels_n).float()
        fake_nchw = self._as_seen(generator(latents_nd, batch.labels_n), batch, "generator/fake")
        fake_n = discriminator(fake_nchw, batch.labels_n).float()
        loss = generator_losses(self.config.kind, fake_n, real_n).mean()
        return loss, {"loss": loss.detach(), "fake_score": fake_n.detach().mean()}

    def _as_seen(self, images_nchw: Tensor, batch: TrainBatch, purpose: str) -> Tensor:
        """Pictures as the discriminator sees them."""
        if self._augmentation is None:
            return images_nchw
        return self._augmentation.apply(images_nchw.float(), batch.noise, purpose)


LossLogsVerdicts = tuple[Tensor, dict[str, Tensor], Tensor]
"""A loss, its parts, and the verdicts on real pictures: above zero where they passed for real."""


def _discriminator_loss(
    config: RelativisticConfig | NonSaturatingConfig | HingeConfig,
    discriminator: nn.Module,
    real_nchw: Tensor,
    fake_nchw: Tensor,
    batch: TrainBatch,
) -> LossLogsVerdicts:
    # The penalty is on the gradient where the discriminator is evaluated: after augmentation.
    r1, r2 = value_at(config.r1, batch.images_seen), value_at(config.r2, batch.images_seen)
    penalised = r1 > 0 or r2 > 0
    images = torch.cat((real_nchw, fake_nchw)).requires_grad_(penalised)
    labels = None if batch.labels_n is None else batch.labels_n.repeat(2)
    # bfloat16 has too few digits for the gradient of a gradient.
    with torch.autocast(images.device.type, enabled=False) if penalised else nullcontext():
        with TwiceDifferentiable() if penalised else nullcontext():
            scores = discriminator(images, labels, sets=2).float()
        real_n, fake_n = scores.chunk(2)
        adversarial = discriminator_losses(config.kind, real_n, fake_n).mean()
        logs = {"real_score": real_n.mean(), "fake_score": fake_n.mean()}
        loss = adversarial
        if penalised:
            real_norms, fake_norms = squared_gradient_norms(scores, images).chunk(2)
            logs |= {"r1": real_norms.mean(), "r2": fake_norms.mean()}
            loss = loss + 0.5 * (r1 * logs["r1"] + r2 * logs["r2"])
    verdicts_n = real_n - fake_n if config.kind == "relativistic" else real_n
    logs = {"loss": loss, "adversarial": adversarial, **logs}
    return loss, _detached(logs), verdicts_n.detach()


def _critic_loss(
    config: WassersteinConfig,
    critic: nn.Module,
    real_nchw: Tensor,
    fake_nchw: Tensor,
    batch: TrainBatch,
) -> LossLogsVerdicts:
    shares = batch.noise.uniform("interpolation", 1, 1, 1)
    between = torch.lerp(real_nchw, fake_nchw, shares).requires_grad_()
    labels = None if batch.labels_n is None else batch.labels_n.repeat(3)
    with torch.autocast(between.device.type, enabled=False):
        with TwiceDifferentiable():
            scores = critic(torch.cat((real_nchw, fake_nchw, between)), labels, sets=3).float()
        real_n, fake_n, between_n = scores.chunk(3)
        adversarial = discriminator_losses(config.kind, real_n, fake_n).mean()
        # The root is not differentiable at zero.
        norms = (squared_gradient_norms(between_n, between) + 1e-12).sqrt()
        penalty = (norms - 1.0).square().mean()
        drift = config.drift * real_n.square().mean()
        loss = adversarial + config.gradient_penalty * penalty + drift
    logs = {"loss": loss, "distance": -adversarial, "penalty": penalty}
    # A critic's scores have no zero: only differences mean anything.
    return loss, _detached(logs), (real_n - fake_n).detach()


def _detached(logs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in logs.items()}
