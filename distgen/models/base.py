"""What every family promises, and the words that latent-variable models share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from distgen.core.config import Config
from distgen.core.spec import ImageSpec


@dataclass(frozen=True)
class Family:
    """A model family: how it is configured, how it is built, and what of it is served."""

    title: str
    """What people call it, as in `a class-conditional <title>`."""
    config: type[Config]
    """The family's section of a job file."""
    build: Callable[[Any, ImageSpec], dict[str, nn.Module]]
    """Fresh networks by name, initialised from torch's global generator (seed it before)."""
    served: str
    """Name of the network that is averaged (EMA), bundled and sampled."""
    rows_together: Callable[[Any], int] = lambda _: 1
    """Of its config: how many samples a network compares, which must be on one rank."""
    clips: bool = False
    """Whether it makes clips [n, time, channels, height, width]; other families make pictures."""
    unrolled: bool = False
    """Whether its networks run once for each of many steps: a compiler sees each of them anew, and
    takes minutes."""


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
    """Standard normal [n, latent_dim]: the reparameterisation of all latents."""


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
    """KL(q || p) in closed form given the latents drawn before, by dimension [n, latent_dim]."""


class Likelihood(Protocol):
    """p(x|z) over pixels, given what a decoder puts out (see `models/likelihoods.py`)."""

    outputs_per_channel: int
    """Numbers that the decoder puts out for each pixel and colour channel; a channel's lie side by
    side."""

    def observe(self, images_nchw: Tensor, uniforms_nchw: Tensor) -> Tensor:
        """Pictures in [-1, 1] as the likelihood sees them: binarised, or dequantised."""
        ...

    def log_prob(self, outputs_nchw: Tensor, observed_nchw: Tensor) -> Tensor:
        """Log probability p(x|z) [n] in nats, float32."""
        ...

    def mean(self, outputs_nchw: Tensor) -> Tensor:
        """The expected picture, in [-1, 1]."""
        ...


@runtime_checkable
class LatentVariableModel(Protocol):
    """p(x|z) p(z) with an inference network q(z|x), for one latent vector or a hierarchy of them.

    All randomness enters as standard normal numbers [n, latent_dim]: the posterior turns them
    into its latents, as the prior does in `Sampler.sample`. To weigh many samples of one
    posterior, `observe` and `encode` once, repeat the rows of both, and call `terms` for as many
    of them at a time as memory allows.
    """

    latent_dim: int
    """Standard normal numbers that one picture takes, over all groups."""
    latent_groups: tuple[int, ...]
    """How these are divided: sizes of layers or time steps in the order in which they are drawn."""

    def observe(self, images_nchw: Tensor, uniforms_nchw: Tensor) -> Tensor:
        """Pictures in [-1, 1] as the likelihood sees them: binarised, or dequantised."""
        ...

    def encode(self, observed_nchw: Tensor) -> tuple[Tensor, ...]:
        """What q(z|x) needs to know of each picture; row i of every tensor is picture i's."""
        ...

    def terms(
        self, observed_nchw: Tensor, encoding: tuple[Tensor, ...], normals_nd: Tensor
    ) -> LatentTerms:
        """The terms of the bound with one posterior sample each; rows of all belong together."""
        ...

    def reconstruct(self, images_nchw: Tensor, labels_n: Tensor | None = None) -> Tensor:
        """Pictures in [-1, 1] decoded from the posterior's mean; no noise is drawn."""
        ...

    def __call__(self, images_nchw: Tensor, noise: LatentNoise) -> LatentTerms:
        """The terms for pictures in [-1, 1]: `observe`, `encode` and `terms` in one."""
        ...


@runtime_checkable
class LatentReader(LatentVariableModel, Protocol):
    """A latent-variable model whose latents can be looked at one by one.

    Latents are the numbers that `Sampler.sample` takes, standard normal under the prior: what the
    posterior draws can be changed, and shown again.
    """

    def draw(
        self,
        observed_nchw: Tensor,
        encoding: tuple[Tensor, ...],
        normals_nd: Tensor,
        kept_d: Tensor | None = None,
    ) -> tuple[Tensor, LatentTerms]:
        """One posterior sample of the latents [n, latent_dim], and its terms of the bound.

        Args:
            observed_nchw: What `observe` gave.
            encoding: What `encode` gave.
            normals_nd: Standard normal numbers; zeros give the mean of each group given the mean of
                those before.
            kept_d: Which latents are the posterior's (bool); all by default. The others are drawn
                from the prior: their KL is zero, and the later groups' posteriors know of it.
        """
        ...


class PictureLatentModel(nn.Module, LatentReader):
    """What every `LatentReader` of pictures shares, however its latents hang together.

    Who extends it sets `likelihood` (a module that is a `Likelihood`), `latent_dim` and
    `latent_groups`, and has `encode`, `draw`, `sample` and `reconstruct`.
    """

    num_classes = 0
    likelihood: nn.Module

    def observe(self, images_nchw: Tensor, uniforms_nchw: Tensor) -> Tensor:
        """Pictures in [-1, 1] as the likelihood sees them: binarised, or dequantised."""
        return self._likelihood.observe(images_nchw, uniforms_nchw)

    def terms(
        self, observed_nchw: Tensor, encoding: tuple[Tensor, ...], normals_nd: Tensor
    ) -> LatentTerms:
        """The terms of the bound with one posterior sample each."""
        return self.draw(observed_nchw, encoding, normals_nd)[1]

    def forward(self, images_nchw: Tensor, noise: LatentNoise) -> LatentTerms:
        """The terms of the bound for pictures in [-1, 1], with one posterior sample each."""
        observed_nchw = self.observe(images_nchw, noise.uniforms_nchw)
        return self.terms(observed_nchw, self.encode(observed_nchw), noise.normals_nd)

    @property
    def _likelihood(self) -> Likelihood:
        return cast(Likelihood, self.likelihood)
