"""Recurrent variational autoencoder over the rows of a picture, top to bottom.

Either one latent vector for all of them, between an LSTM that reads and one that writes rows, or a
sequence of latents with a recurrent prior (`models/bands.py`). For clips see `models/clip_rvae.py`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from distgen.core.config import Config
from distgen.core.spec import ImageSpec
from distgen.models.bands import BandModel, images_of, rows_of
from distgen.models.base import Family
from distgen.models.layers import activate, linear
from distgen.models.likelihoods import LikelihoodName, build_likelihood
from distgen.models.recurrent import Recurrence
from distgen.models.single import SingleLatentModel


class RVAEConfig(Config):
    """Recurrent variational autoencoder over the rows of a picture (Chung et al. 2015)."""

    family: Literal["rvae"] = "rvae"
    latents: Literal["global", "sequence"] = "global"
    """`global`: one vector for the whole picture, between LSTMs over its rows (after Bowman et al.
    2016). `sequence`: one for each band of rows that a convolutional network makes of them, with a
    recurrent prior."""
    latent_dim: int = Field(default=40, ge=1, le=65_536)
    """Size of a latent vector: the only one, or each band's."""
    width: int = Field(default=256, ge=4, le=8192)
    """Hidden units of each LSTM."""
    channels: int = Field(default=64, ge=4, le=8192)
    """Sequence, of no effect else: feature maps of a band; halved with each doubling of the
    resolution, down to a quarter."""
    clock_features: int = Field(default=16, ge=2, le=1024, multiple_of=2)
    """Global, of no effect else: sines and cosines that tell the decoder how far along the rows it
    is."""
    likelihood: LikelihoodName = "bernoulli"
    """`bernoulli` (stochastically binarised pixels), `gaussian` (grey levels or colours), or
    `logistic` or `logistic-mixture` (8-bit values themselves)."""


def clock(steps: int, features: int, like: Tensor) -> Tensor:
    """Sines and cosines of the step's number [steps, features] (Vaswani et al. 2017, 3.5)."""
    positions = torch.arange(steps, device=like.device, dtype=torch.float32).unsqueeze(1)
    octaves = torch.arange(features // 2, device=like.device, dtype=torch.float32)
    angles = positions * (math.pi * torch.exp(-octaves * (math.log(2.0 * steps) / (features // 2))))
    return torch.cat((angles.sin(), angles.cos()), dim=1).to(like.dtype)


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
    """The one network, `model`; with global latents any picture size will do.

    Raises:
        UsageError: The pictures' size does not fit.
    """
    likelihood = build_likelihood(config.likelihood)
    outputs = spec.channels * likelihood.outputs_per_channel
    if config.latents == "sequence":
        return {
            "model": BandModel(
                spec, outputs, config.latent_dim, config.channels, config.width, likelihood
            )
        }
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
