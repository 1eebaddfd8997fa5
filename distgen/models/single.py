"""Latent-variable models with one standard normal vector z per picture (Kingma & Welling 2014)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distgen.models.base import LatentTerms, PictureLatentModel
from distgen.models.gaussians import DiagonalGaussian, standard_normal_log_prob


class SingleLatentModel(PictureLatentModel):
    """p(x|z) p(z) with an inference network q(z|x); a `LatentVariableModel`.

    Args:
        encoder: Observed pictures [n, c, h, w] to posterior parameters [n, 2 * latent_dim].
        decoder: Latents [n, latent_dim] to the likelihood's inputs.
        likelihood: A module that is a `Likelihood`.
        latent_dim: Size of z.
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, likelihood: nn.Module, latent_dim: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.latent_dim = latent_dim
        self.latent_groups = (latent_dim,)

    def encode(self, observed_nchw: Tensor) -> DiagonalGaussian:
        """q(z|x) for observed pictures."""
        mean_nd, raw_nd = self.encoder(observed_nchw).float().chunk(2, dim=1)
        return DiagonalGaussian.of(mean_nd, raw_nd)

    def draw(
        self,
        observed_nchw: Tensor,
        encoding: tuple[Tensor, ...],
        normals_nd: Tensor,
        kept_d: Tensor | None = None,
    ) -> tuple[Tensor, LatentTerms]:
        """One posterior sample of the latents, and its terms (see `LatentReader.draw`)."""
        posterior = DiagonalGaussian(*encoding)
        if kept_d is not None:
            posterior = posterior.where(kept_d)
        latents_nd = posterior.sample(normals_nd)
        outputs_nchw = self.decoder(latents_nd).float()
        return latents_nd, LatentTerms(
            log_likelihood_n=self._likelihood.log_prob(outputs_nchw, observed_nchw),
            log_prior_n=standard_normal_log_prob(latents_nd).sum(1),
            log_posterior_n=posterior.log_prob(latents_nd).sum(1),
            kl_nd=posterior.kl_to_standard(),
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
