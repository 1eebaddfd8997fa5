"""Convolutional variational autoencoder (Kingma & Welling 2014), residual, for any pyramid size.

SiLU in the place of leaky ReLU brings the bound on Fashion-MNIST down by two nats.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from distgen.core.config import Config
from distgen.core.spec import ImageSpec
from distgen.models.base import Family
from distgen.models.layers import LINEAR, Contract, Expand, Pyramid, linear, pyramid_for
from distgen.models.likelihoods import LikelihoodName, build_likelihood
from distgen.models.single import SingleLatentModel


class VAEConfig(Config):
    """Convolutional variational autoencoder (Kingma & Welling 2014)."""

    family: Literal["vae"] = "vae"
    latent_dim: int = Field(default=40, ge=1, le=65_536)
    """Size of the latent vector."""
    width: int = Field(default=64, ge=4, le=8192)
    """Channels at the coarsest resolution; halved with each doubling, down to a quarter."""
    blocks: int = Field(default=1, ge=1, le=64)
    """Residual blocks per resolution, in encoder and decoder."""
    hidden: Annotated[int, Field(ge=4, le=8192)] | None = None
    """Units of a dense layer between the latent vector and the coarsest maps, in encoder and
    decoder; none by default."""
    likelihood: LikelihoodName = "bernoulli"
    """`bernoulli` (stochastically binarised pixels), `gaussian` (grey levels or colours), or
    `logistic` or `logistic-mixture` (8-bit values themselves)."""


class Encoder(nn.Module):
    """Observed pictures to posterior parameters [n, 2 * latent_dim]."""

    def __init__(self, config: VAEConfig, spec: ImageSpec, pyramid: Pyramid) -> None:
        super().__init__()
        self.trunk = Contract(spec.channels, pyramid, config.width, config.blocks, F.silu)
        features = config.hidden or self.trunk.size
        self.hidden = linear(self.trunk.size, features) if config.hidden else None
        self.posterior = linear(features, 2 * config.latent_dim, gain=0.1)

    def forward(self, observed_nchw: Tensor) -> Tensor:
        """Means, then raw logarithms of scales."""
        features_nf: Tensor = self.trunk(observed_nchw)
        if self.hidden is not None:
            features_nf = F.silu(self.hidden(features_nf))
        parameters: Tensor = self.posterior(features_nf)
        return parameters


def build(config: VAEConfig, spec: ImageSpec) -> dict[str, nn.Module]:
    """The one network, `model`.

    Raises:
        UsageError: The pictures' size does not fit.
    """
    pyramid = pyramid_for(spec)
    likelihood = build_likelihood(config.likelihood)
    decoder: nn.Module = Expand(
        config.hidden or config.latent_dim,
        spec.channels * likelihood.outputs_per_channel,
        pyramid,
        config.width,
        config.blocks,
        F.silu,
        # Small at first: what a likelihood makes of wild outputs are steep gradients.
        image_gain=0.1,
    )
    if config.hidden:
        dense = linear(config.latent_dim, config.hidden, gain=LINEAR)
        decoder = nn.Sequential(dense, nn.SiLU(), decoder)
    model = SingleLatentModel(
        Encoder(config, spec, pyramid),
        decoder,
        likelihood,
        config.latent_dim,
    )
    return {"model": model}


FAMILY = Family(title="variational autoencoder", config=VAEConfig, build=build, served="model")
