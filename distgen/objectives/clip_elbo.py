"""The evidence lower bound of recurrent models of clips, which learn to go on by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from distgen.core.config import Config
from distgen.models.base import LatentNoise, LatentTerms
from distgen.models.clip_rvae import Teaching
from distgen.objectives.base import Noise, Objective, Phase, TrainBatch
from distgen.objectives.elbo import charged_kl, kl_weight

MODEL = Phase("model", ("model",))


class ClipELBOConfig(Config):
    """Evidence lower bound of clips, with true frames fed back less and less (Bengio 2015)."""

    families: ClassVar[tuple[str, ...]] = ("clip-rvae",)
    kind: Literal["clip-elbo"] = "clip-elbo"
    beta: NonNegativeFloat = 1.0
    """Weight of the KL term (Higgins et al. 2017); 1 is the bound itself."""
    kl_warmup_images: NonNegativeInt = 0
    """Clips over which the KL term's weight rises linearly from 0 to beta."""
    free_bits: NonNegativeFloat = 0.0
    """Nats of KL per latent dimension, frame and clip that cost nothing more."""
    teacher_forcing: float = Field(default=0.5, ge=0.0, le=1.0)
    """Probability, at the end, that a frame of a clip that is seen in full is fed back as it is;
    else the model's own, as when it makes clips."""
    teacher_forcing_images: NonNegativeInt = 0
    """Clips over which that probability falls linearly from 1."""
    predicted: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of clips of which the model sees only the first frames and predicts the others: no
    true frame is fed back there, and no posterior reads one."""
    shortest_context: PositiveInt = 5
    """Frames that it sees at least of such a clip; the number is drawn up to all but one."""


def forcing(config: ClipELBOConfig, images_seen: int) -> float:
    """The probability that a step is fed the true frame, at this point of the clock."""
    if images_seen >= config.teacher_forcing_images:
        return config.teacher_forcing
    return 1.0 - (1.0 - config.teacher_forcing) * images_seen / config.teacher_forcing_images


def teach(config: ClipELBOConfig, noise: Noise, frames: int, images_seen: int) -> Teaching:
    """What the model sees of each clip of a batch, from the batch's own noise."""
    # One number for each clip says whether it is predicted, and from how much.
    choice_n1 = noise.uniform("context", 1)
    predicted_n1 = choice_n1 < config.predicted
    shortest = min(config.shortest_context, frames - 1)
    context_n1 = shortest + torch.floor(choice_n1 / config.predicted * (frames - shortest))
    context_n1 = torch.where(predicted_n1, context_n1, float(frames))
    seen_nt = torch.arange(frames, device=choice_n1.device) < context_n1
    true_nt = noise.uniform("teacher forcing", frames) < forcing(config, images_seen)
    # A context is given as it is, as it will be given to the trained model.
    return Teaching(fed_nt=seen_nt & (true_nt | predicted_n1), seen_nt=seen_nt)


@dataclass(frozen=True)
class ClipELBO(Objective):
    """One phase: the negative bound, in nats per clip.

    Args:
        config: How the KL term is shaped, and what is hidden.
        latent_dim: Standard normal numbers that a clip takes.
    """

    config: ClipELBOConfig
    latent_dim: int
    phases: ClassVar[tuple[Phase, ...]] = (MODEL,)

    def loss(
        self,
        phase: Phase,  # noqa: ARG002
        networks: Mapping[str, nn.Module],
        batch: TrainBatch,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The shaped negative bound; logs hold the plain one (`bound`) and its two terms.

        `bound` is one for the model that goes on by itself as often as this batch asked it to.
        """
        shape = batch.images_nchw.shape[1:]
        noise = LatentNoise(
            uniforms_nchw=batch.noise.uniform("observation", *shape),
            normals_nd=batch.noise.normal("posterior", self.latent_dim),
        )
        teaching = teach(self.config, batch.noise, shape[0], batch.images_seen)
        terms: LatentTerms = networks["model"](batch.images_nchw, noise, teaching)
        reconstruction = -terms.log_likelihood_n.mean()
        kl = terms.kl_nd.sum(1).mean()
        weight = kl_weight(self.config, batch.images_seen)
        charged = charged_kl(terms.kl_nd, self.config.free_bits).mean()
        loss = reconstruction + weight * charged
        scalars = {
            "kl_weight": weight,
            "teacher_forcing": forcing(self.config, batch.images_seen),
        }
        return loss, {
            "loss": loss.detach(),
            "bound": (reconstruction + kl).detach(),
            "reconstruction": reconstruction.detach(),
            "kl": kl.detach(),
            # Filled on the device: a copy to it would wait.
            **{name: loss.new_full((), value) for name, value in scalars.items()},
        }
