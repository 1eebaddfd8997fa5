"""What every family promises, and the words that latent-variable models share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from distgen.core.config import Config
from distgen.core.spec import ImageSpec

_LOG_TWO_PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Family:
    """A model family: how it is configured, how it is built, and what of it is served."""

    config: type[Config]
    """The family's section of a job file."""
    build: Callable[[Any, ImageSpec], dict[str, nn.Module]]
    """Fresh networks by name, initialised from torch's global generator (seed it before)."""
    served: str
    """Name of the network that is averaged (EMA), bundled and sampled."""


@runtime_checkable
class Sampler(Protocol):
    """What a served network offers: pictures as a deterministic function of latents and labels."""

    latent_dim: int
    """Size of the latent vector, standard normal under the prior."""
    num_classes: int
    """Number of classes that `sample` can be asked for; 0 for an unconditional model."""

    def sample(self, latents_nd: Tensor, labels_n: Tensor | None = None) -> Tensor:
        """Pictures [n, channels, height, width] in [-1, 1].

        Args:
            latents_nd: Latents [n, latent_dim].
            labels_n: Class indices [n]; None for an unconditional model, which ignores them.

        Raises:
            ValueError: The model is conditional and no labels are given.
        """
        ...


class LatentNoise(NamedTuple):
    """The random numbers that one pass of a latent-variable model consumes."""

    uniforms_nchw: Tensor
    """Uniform in [0, 1), shaped like the pictures: binarises or dequantises them."""
    normals_nd: Tensor
    """Standard normal [n, latent_dim]: the posterior's reparameterisation."""


class LatentTerms(NamedTuple):
    """One posterior sample's terms of the evidence lower bound, per picture, in nats, float32.

    `log_likelihood_n + log_prior_n - log_posterior_n` is the log importance weight of the sample;
    its mean, and `log_likelihood_n - kl_nd.sum(1)`, estimate the bound without bias.
    """

    log_likelihood_n: Tensor
    """log p(x|z), summed over pixels [n]."""
    log_prior_n: Tensor
    """log p(z) [n]."""
    log_posterior_n: Tensor
    """log q(z|x) [n]."""
    kl_nd: Tensor
    """KL(q(z|x) || p(z)) in closed form, by latent dimension [n, latent_dim]."""


class Posterior(NamedTuple):
    """q(z|x): a diagonal Gaussian for each picture."""

    mean_nd: Tensor
    log_scale_nd: Tensor
    """Logarithm of the standard deviation [n, latent_dim]."""

    def sample(self, normals_nd: Tensor) -> Tensor:
        """Latents [n, d] from standard normal numbers (reparameterised, so gradients flow)."""
        return self.mean_nd + normals_nd * self.log_scale_nd.exp()

    def log_prob(self, latents_nd: Tensor) -> Tensor:
        """Log density q(z|x) [n] in nats."""
        normals_nd = (latents_nd - self.mean_nd) * (-self.log_scale_nd).exp()
        return (standard_normal_log_prob(normals_nd) - self.log_scale_nd).sum(1)

    def kl_nd(self) -> Tensor:
        """KL to the standard normal prior, by dimension (Kingma & Welling 2014, appendix B)."""
        second_moment_nd = self.mean_nd.square() + (2.0 * self.log_scale_nd).exp()
        return 0.5 * (second_moment_nd - 1.0) - self.log_scale_nd


def standard_normal_log_prob(values: Tensor) -> Tensor:
    """Elementwise log density of the standard normal, in nats."""
    return -0.5 * (values.square() + _LOG_TWO_PI)


class Likelihood(Protocol):
    """p(x|z) over pixels, given what a decoder puts out (see `models/likelihoods.py`)."""

    def observe(self, images_nchw: Tensor, uniforms_nchw: Tensor) -> Tensor:
        """Pictures in [-1, 1] as the likelihood sees them: binarised, or dequantised."""
        ...

    def log_prob(self, outputs_nchw: Tensor, observed_nchw: Tensor) -> Tensor:
        """Log probability p(x|z) [n] in nats, float32."""
        ...

    def mean(self, outputs_nchw: Tensor) -> Tensor:
        """The expected picture, in [-1, 1]."""
        ...


class LatentVariableModel(nn.Module):
    """p(x|z) p(z) with an inference network q(z|x); z is standard normal (Kingma & Welling 2014).

    To weigh many samples of one posterior, `observe` and `encode` once, then call
    `log_likelihood` for as many latents at a time as memory allows.

    Args:
        encoder: Observed pictures [n, c, h, w] to posterior parameters [n, 2 * latent_dim].
        decoder: Latents [n, latent_dim] to the likelihood's inputs [n, c, h, w].
        likelihood: A module that is a `Likelihood`.
        latent_dim: Size of z.
    """

    num_classes = 0

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, likelihood: nn.Module, latent_dim: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.latent_dim = latent_dim

    def observe(self, images_nchw: Tensor, uniforms_nchw: Tensor) -> Tensor:
        """Pictures in [-1, 1] as the likelihood sees them: binarised, or dequantised."""
        return self._likelihood.observe(images_nchw, uniforms_nchw)

    def encode(self, observed_nchw: Tensor) -> Posterior:
        """q(z|x) for observed pictures."""
        mean_nd, raw_nd = self.encoder(observed_nchw).float().chunk(2, dim=1)
        # A soft limit: no scale below e^-7, none above e^7, and a gradient everywhere.
        return Posterior(mean_nd, 7.0 * torch.tanh(raw_nd / 7.0))

    def log_likelihood(self, observed_nchw: Tensor, latents_nd: Tensor) -> Tensor:
        """Log probability p(x|z) [n] in nats, float32; row i of both arguments belongs together."""
        return self._likelihood.log_prob(self.decoder(latents_nd).float(), observed_nchw)

    def log_prior(self, latents_nd: Tensor) -> Tensor:
        """Log density p(z) [n] in nats."""
        return standard_normal_log_prob(latents_nd).sum(1)

    def forward(self, images_nchw: Tensor, noise: LatentNoise) -> LatentTerms:
        """The terms of the bound for pictures in [-1, 1], with one posterior sample each."""
        observed_nchw = self.observe(images_nchw, noise.uniforms_nchw)
        posterior = self.encode(observed_nchw)
        latents_nd = posterior.sample(noise.normals_nd)
        return LatentTerms(
            log_likelihood_n=self.log_likelihood(observed_nchw, latents_nd),
            log_prior_n=self.log_prior(latents_nd),
            log_posterior_n=posterior.log_prob(latents_nd),
            kl_nd=posterior.kl_nd(),
        )

    def sample(self, latents_nd: Tensor, labels_n: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The expected pictures [n, c, h, w] in [-1, 1] under p(x|z)."""
        return self._likelihood.mean(self.decoder(latents_nd).float())

    def reconstruct(self, images_nchw: Tensor, labels_n: Tensor | None = None) -> Tensor:
        """Pictures in [-1, 1] decoded from the posterior's mean; no noise is drawn.

        The encoder sees the middle of what `observe` would give: a pixel is on where it is more
        likely on than off.
        """
        observed_nchw = self.observe(images_nchw, torch.full_like(images_nchw, 0.5))
        return self.sample(self.encode(observed_nchw).mean_nd, labels_n)

    @property
    def _likelihood(self) -> Likelihood:
        return cast(Likelihood, self.likelihood)
