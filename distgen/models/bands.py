"""A picture as a sequence of bands of rows, top to bottom, each with latents of its own.

Latents of a band follow those of the bands above; the decoder reads all of them before it draws.
So `sample` stays the exact mean of p(x|z), and what a global vector would say is said by the first
steps, whose posterior has read the whole picture in both directions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distgen.core.spec import ImageSpec
from distgen.models.base import LatentTerms, PictureLatentModel
from distgen.models.layers import LINEAR, Contract, Expand, Pyramid, linear, pyramid_for
from distgen.models.recurrent import LatentSteps, Recurrence, summed, unroll


def rows_of(images_nchw: Tensor) -> Tensor:
    """Pictures, or feature maps, as sequences of rows [n, height, channels * width]."""
    return images_nchw.transpose(1, 2).flatten(2)


def images_of(rows_ntf: Tensor, channels: int) -> Tensor:
    """The inverse of `rows_of`."""
    return rows_ntf.reshape(*rows_ntf.shape[:2], channels, -1).transpose(1, 2)


class BandEncoder(nn.Module):
    """Observed pictures to what is known of each band [n, time, 2 * width]: read both ways."""

    def __init__(self, spec: ImageSpec, pyramid: Pyramid, channels: int, width: int) -> None:
        super().__init__()
        self.shape = (channels, pyramid.base_height, pyramid.base_width)
        self.trunk = Contract(spec.channels, pyramid, channels, 1, F.silu)
        self.lstm = Recurrence(channels * pyramid.base_width, width, bidirectional=True)

    def forward(self, observed_nchw: Tensor) -> Tensor:
        """Evidence for each step's posterior."""
        features_nchw = self.trunk(observed_nchw).unflatten(1, self.shape)
        evidence_ntf: Tensor = self.lstm(rows_of(features_nchw))[0]
        return evidence_ntf


class BandDecoder(nn.Module):
    """States and latents of all steps to the likelihood's inputs [n, c, h, w]."""

    def __init__(
        self, outputs: int, pyramid: Pyramid, channels: int, width: int, latent_dim: int
    ) -> None:
        super().__init__()
        self.channels = channels
        inputs = width + latent_dim
        self.lstm = Recurrence(inputs, width, bidirectional=True)
        self.bands = linear(2 * width + inputs, channels * pyramid.base_width, gain=LINEAR)
        self.trunk = Expand(None, outputs, pyramid, channels, 1, F.silu)

    def forward(self, states_nth: Tensor, latents_ntd: Tensor) -> Tensor:
        """All bands at once: neighbours are drawn knowing of each other."""
        inputs = torch.cat((states_nth, latents_ntd), dim=2)
        hidden_ntf, _ = self.lstm(inputs)
        bands_ntf = self.bands(torch.cat((hidden_ntf, inputs), dim=2))
        outputs_nchw: Tensor = self.trunk(images_of(bands_ntf, self.channels))
        return outputs_nchw


class BandModel(PictureLatentModel):
    """p(x | z_1..z_T) and a recurrent prior over bands; a `LatentVariableModel`.

    Args:
        spec: Size and mode of the pictures.
        outputs: Numbers that the likelihood takes for each pixel.
        step_dim: Size of each band's latent vector.
        channels: Feature maps at the coarsest resolution.
        width: Hidden units of each LSTM.
        likelihood: A module that is a `Likelihood`.

    Raises:
        UsageError: The pictures' size does not fit.
    """

    def __init__(
        self,
        spec: ImageSpec,
        outputs: int,
        step_dim: int,
        channels: int,
        width: int,
        likelihood: nn.Module,
    ) -> None:
        super().__init__()
        pyramid = pyramid_for(spec)
        self.encoder = BandEncoder(spec, pyramid, channels, width)
        self.steps = LatentSteps(step_dim, width, evidence=2 * width)
        self.decoder = BandDecoder(outputs, pyramid, channels, width, step_dim)
        self.likelihood = likelihood
        self.latent_groups = (step_dim,) * pyramid.base_height
        self.latent_dim = sum(self.latent_groups)

    def encode(self, observed_nchw: Tensor) -> tuple[Tensor, ...]:
        """Evidence for each band [n, time, features]."""
        return (self.encoder(observed_nchw),)

    def draw(
        self,
        observed_nchw: Tensor,
        encoding: tuple[Tensor, ...],
        normals_nd: Tensor,
        kept_d: Tensor | None = None,
    ) -> tuple[Tensor, LatentTerms]:
        """One posterior sample of the numbers that `sample` takes [n, latent_dim], and its terms.

        Args:
            observed_nchw: What `observe` gave.
            encoding: What `encode` gave.
            normals_nd: Standard normal numbers.
            kept_d: Which latents are the posterior's (bool); all by default. The others are drawn
                from the prior, and later steps know of it.
        """
        kept_td = None if kept_d is None else kept_d.reshape(len(self.latent_groups), -1)
        unrolled = unroll(self.steps, self._by_step(normals_nd), encoding[0], kept_td)
        outputs_nchw = self.decoder(unrolled.states_nth, unrolled.latents_ntd).float()
        whole = summed(unrolled.drawn)
        return whole.standard_nd, LatentTerms(
            log_likelihood_n=self._likelihood.log_prob(outputs_nchw, observed_nchw),
            log_prior_n=whole.log_prior_n,
            log_posterior_n=whole.log_posterior_n,
            kl_nd=whole.kl_nd,
        )

    def sample(self, latents_nd: Tensor, labels_n: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The expected pictures [n, c, h, w] in [-1, 1] under p(x|z)."""
        return self._decoded(self._by_step(latents_nd), None)

    def reconstruct(self, images_nchw: Tensor, labels_n: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Pictures in [-1, 1] decoded from the posterior's mean; no noise is drawn."""
        observed_nchw = self.observe(images_nchw, torch.full_like(images_nchw, 0.5))
        (evidence_ntf,) = self.encode(observed_nchw)
        no_noise_nd = evidence_ntf.new_zeros(len(evidence_ntf), self.latent_dim)
        return self._decoded(self._by_step(no_noise_nd), evidence_ntf)

    def _decoded(self, normals_ntd: Tensor, evidence_ntf: Tensor | None) -> Tensor:
        unrolled = unroll(self.steps, normals_ntd, evidence_ntf)
        outputs_nchw = self.decoder(unrolled.states_nth, unrolled.latents_ntd)
        return self._likelihood.mean(outputs_nchw.float())

    def _by_step(self, normals_nd: Tensor) -> Tensor:
        return normals_nd.reshape(len(normals_nd), len(self.latent_groups), -1)
