"""Recurrent variational autoencoder: LSTM encoder and decoder over a sequence of feature vectors.

The networks know only sequences [n, time, features]. A still picture is the sequence of its rows,
top to bottom; nothing else in this file would change for the frames of a clip.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from distgen.core.config import Config
from distgen.core.spec import ImageSpec
from distgen.models.base import Family
from distgen.models.layers import activate, linear
from distgen.models.likelihoods import LikelihoodName, build_likelihood
from distgen.models.single import SingleLatentModel


class RVAEConfig(Config):
    """Recurrent variational autoencoder over the rows of a picture (after Bowman et al. 2016)."""

    family: Literal["rvae"] = "rvae"
    latent_dim: int = Field(default=40, ge=1, le=65_536)
    """Size of the latent vector, one for the whole sequence."""
    width: int = Field(default=256, ge=4, le=8192)
    """Hidden units of each LSTM."""
    clock_features: int = Field(default=16, ge=2, le=1024, multiple_of=2)
    """Sines and cosines that tell the decoder how far along the sequence it is."""
    likelihood: LikelihoodName = "bernoulli"
    """`bernoulli` (stochastically binarised pixels), `gaussian` (grey levels or colours), or
    `logistic` or `logistic-mixture` (8-bit values themselves)."""


def rows_of(images_nchw: Tensor) -> Tensor:
    """Pictures as sequences of rows [n, height, channels * width]."""
    return images_nchw.transpose(1, 2).flatten(2)


def images_of(rows_ntf: Tensor, channels: int) -> Tensor:
    """The inverse of `rows_of`."""
    return rows_ntf.reshape(*rows_ntf.shape[:2], channels, -1).transpose(1, 2)


def clock(steps: int, features: int, like: Tensor) -> Tensor:
    """Sines and cosines of the step's number [steps, features] (Vaswani et al. 2017, 3.5)."""
    positions = torch.arange(steps, device=like.device, dtype=torch.float32).unsqueeze(1)
    octaves = torch.arange(features // 2, device=like.device, dtype=torch.float32)
    angles = positions * (math.pi * torch.exp(-octaves * (math.log(2.0 * steps) / (features // 2))))
    return torch.cat((angles.sin(), angles.cos()), dim=1).to(like.dtype)


class Recurrence(nn.LSTM):
    """An LSTM over [n, time, features] that always runs in float32.

    Rounding compounds from step to step, and not every CPU has a bfloat16 LSTM.
    """

    def __init__(self, features: int, width: int, *, bidirectional: bool = False) -> None:
        super().__init__(features, width, batch_first=True, bidirectional=bidirectional)

    def forward(  # type: ignore[override]
        self, sequence_ntf: Tensor, start: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Hidden states [n, time, width], and the last hidden and cell states."""
        with torch.autocast(sequence_ntf.device.type, enabled=False):
            states = None if start is None else (start[0].float(), start[1].float())
            return super().forward(sequence_ntf.float(), states)


class SequenceEncoder(nn.Module):
    """Reads a sequence [n, time, features] in both directions; returns [n, outputs]."""

    def __init__(self, features: int, width: int, outputs: int) -> None:
        super().__init__()
        self.lstm = Recurrence(features, width, bidirectional=True)
        self.summary = linear(2 * width, outputs, gain=0.1)

    def forward(self, sequence_ntf: Tensor) -> Tensor:
        """A summary of the sequence from where each direction ends."""
        _, (last_2nh, _) = self.lstm(sequence_ntf)
        summary: Tensor = self.summary(torch.cat((last_2nh[0], last_2nh[1]), dim=1))
        return summary


class SequenceDecoder(nn.Module):
    """Writes a sequence [n, time, features] of any length from one latent vector.

    Every step reads the latents and the clock, never an earlier step's output: all that a picture
    shows is in its latents, `sample` is the exact mean of p(x|z), and one call runs all steps.
    """

    def __init__(self, latent_dim: int, width: int, clock_features: int, features: int) -> None:
        super().__init__()
        self.clock_features = clock_features
        self.start = linear(latent_dim, 2 * width, gain=0.5)
        self.lstm = Recurrence(latent_dim + clock_features, width)
        self.hidden = linear(width + latent_dim, width)
        self.outputs = linear(width, features, gain=0.1)

    def forward(self, latents_nd: Tensor, steps: int) -> Tensor:
        """The sequence [n, steps, features]."""
        hidden_nh, cell_nh = torch.tanh(self.start(latents_nd)).chunk(2, dim=1)
        ticks = clock(steps, self.clock_features, latents_nd).expand(len(latents_nd), -1, -1)
        latents_ntd = latents_nd.unsqueeze(1).expand(-1, steps, -1)
        inputs = torch.cat((latents_ntd, ticks), dim=2)
        states = (hidden_nh.unsqueeze(0).contiguous(), cell_nh.unsqueeze(0).contiguous())
        hidden_nth, _ = self.lstm(inputs, states)
        # The latents reach every output directly too: a path that is short uses more of them
        # (Dieng et al. 2019, skip models).
        features = activate(self.hidden(torch.cat((hidden_nth, latents_ntd), dim=2)))
        outputs_ntf: Tensor = self.outputs(features)
        return outputs_ntf


class RowEncoder(nn.Module):
    """A sequence encoder that reads pictures row by row."""

    def __init__(self, encoder: SequenceEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images_nchw: Tensor) -> Tensor:
        """The summary [n, outputs]."""
        summary: Tensor = self.encoder(rows_of(images_nchw))
        return summary


class RowDecoder(nn.Module):
    """A sequence decoder that writes pictures row by row."""

    def __init__(self, decoder: SequenceDecoder, height: int, channels: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.height = height
        self.channels = channels

    def forward(self, latents_nd: Tensor) -> Tensor:
        """The likelihood's inputs [n, c, h, w]."""
        return images_of(self.decoder(latents_nd, self.height), self.channels)


def build(config: RVAEConfig, spec: ImageSpec) -> dict[str, nn.Module]:
    """The one network, `model`; any picture size will do."""
    likelihood = build_likelihood(config.likelihood)
    outputs = spec.channels * likelihood.outputs_per_channel
    encoder = SequenceEncoder(spec.channels * spec.width, config.width, 2 * config.latent_dim)
    decoder = SequenceDecoder(
        config.latent_dim, config.width, config.clock_features, outputs * spec.width
    )
    model = SingleLatentModel(
        RowEncoder(encoder),
        RowDecoder(decoder, spec.height, outputs),
        likelihood,
        config.latent_dim,
    )
    return {"model": model}


FAMILY = Family(
    title="recurrent variational autoencoder", config=RVAEConfig, build=build, served="model"
)
