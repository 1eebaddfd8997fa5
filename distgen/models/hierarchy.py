"""Latent-variable models whose latents come in groups, each given those drawn before it.

The encoder reads a picture once, bottom-up and without noise; the generative path runs top-down,
and the posterior of each group sees both (Soenderby et al. 2016, ladder VAE; Kingma et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from distgen.models.base import LatentTerms, PictureLatentModel
from distgen.models.gaussians import DiagonalGaussian, standard_normal_log_prob


class LatentGroup(Protocol):
    """One group of latents below the first, on the top-down path; a module.

    Its latents are counted in units of their prior: 0 is the prior's mean and 1 its scale. They
    are standard normal under the prior then, whatever was drawn above, and the posterior is what
    NVAE calls residual (Vahdat & Kautz 2020, equation 4): an untrained one is the prior itself.
    """

    shape: tuple[int, ...]
    """Shape of one picture's latents."""

    def look(self, features: Tensor) -> Tensor:
        """What prior and posterior know of the latents drawn before: a context [n, ...]."""
        ...

    def posterior(self, context: Tensor, message: Tensor) -> DiagonalGaussian:
        """The posterior in units of the prior, given the context and the encoder's message."""
        ...

    def absorb(self, features: Tensor, context: Tensor, latents: Tensor) -> Tensor:
        """Features for the next group, which know these latents (in units of the prior) too."""
        ...


class HierarchicalModel(PictureLatentModel):
    """p(x|z) p(z1) p(z2|z1) ... with an inference network; a `LatentVariableModel`.

    Args:
        encoder: Observed pictures to a tuple: the first group's posterior parameters
            [n, 2 * first_dim], then a message [n, ...] to each further group.
        top: The first group, a vector [n, first_dim] with a standard normal prior, to features.
        groups: Further groups in drawing order, each a module that is a `LatentGroup`.
        decoder: The last group's features to the likelihood's inputs.
        likelihood: A module that is a `Likelihood`.
        first_dim: Size of the first group.
    """

    def __init__(
        self,
        encoder: nn.Module,
        top: nn.Module,
        groups: Sequence[nn.Module],
        decoder: nn.Module,
        likelihood: nn.Module,
        first_dim: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.top = top
        self.groups = nn.ModuleList(groups)
        self.decoder = decoder
        self.likelihood = likelihood
        sizes = (math.prod(group.shape) for group in self._groups)
        self.latent_groups = (first_dim, *sizes)
        self.latent_dim = sum(self.latent_groups)

    def encode(self, observed_nchw: Tensor) -> tuple[Tensor, ...]:
        """Mean and log scale of the first group's posterior, and messages to the others'."""
        parameters, *messages = self.encoder(observed_nchw)
        mean_nd, raw_nd = parameters.float().chunk(2, dim=1)
        return (*DiagonalGaussian.of(mean_nd, raw_nd), *messages)

    def draw(
        self,
        observed_nchw: Tensor,
        encoding: tuple[Tensor, ...],
        normals_nd: Tensor,
        kept_d: Tensor | None = None,
    ) -> tuple[Tensor, LatentTerms]:
        """One posterior sample of the latents, and its terms (see `LatentReader.draw`).

        In units of the prior, log p(z) and log q(z|x) both lack the logarithm of the prior's
        scales; their difference, and so the bound, is that of any other units.
        """
        mean_nd, log_scale_nd, *messages = encoding
        normals = self._divide(normals_nd)
        kept = self._divide(kept_d.unsqueeze(0)) if kept_d is not None else None
        posterior = DiagonalGaussian(mean_nd, log_scale_nd)
        drawn: list[Tensor] = []
        posteriors: list[DiagonalGaussian] = []

        def take(number: int, posterior: DiagonalGaussian) -> Tensor:
            if kept is not None:
                posterior = posterior.where(kept[number])
            latents = posterior.sample(normals[number])
            drawn.append(latents.flatten(1))
            posteriors.append(DiagonalGaussian(*(part.flatten(1) for part in posterior)))
            return latents

        features = self.top(take(0, posterior))
        for number, (group, message) in enumerate(zip(self._groups, messages, strict=True), 1):
            context = group.look(features)
            latents = take(number, group.posterior(context, message))
            features = group.absorb(features, context, latents)
        outputs_nchw = self.decoder(features).float()
        latents_nd = torch.cat(drawn, dim=1)
        whole = DiagonalGaussian(*(torch.cat(parts, 1) for parts in zip(*posteriors, strict=True)))
        return latents_nd, LatentTerms(
            log_likelihood_n=self._likelihood.log_prob(outputs_nchw, observed_nchw),
            log_prior_n=standard_normal_log_prob(latents_nd).sum(1),
            log_posterior_n=whole.log_prob(latents_nd).sum(1),
            kl_nd=whole.kl_to_standard(),
        )

    def sample(self, latents_nd: Tensor, labels_n: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The expected pictures [n, c, h, w] in [-1, 1] under p(x|z).

        Latents of all groups lie side by side in drawing order, each group's in units of its prior.
        """
        first, *others = self._divide(latents_nd)
        features = self.top(first)
        for group, latents in zip(self._groups, others, strict=True):
            features = group.absorb(features, group.look(features), latents)
        return self._likelihood.mean(self.decoder(features).float())

    def reconstruct(self, images_nchw: Tensor, labels_n: Tensor | None = None) -> Tensor:
        """Pictures in [-1, 1] decoded from the mean of each group's posterior; no noise is drawn.

        The encoder sees the middle of what `observe` would give (see `SingleLatentModel`).
        """
        observed_nchw = self.observe(images_nchw, torch.full_like(images_nchw, 0.5))
        zeros_nd = images_nchw.new_zeros(len(images_nchw), self.latent_dim)
        latents_nd, _ = self.draw(observed_nchw, self.encode(observed_nchw), zeros_nd)
        return self.sample(latents_nd, labels_n)

    def _divide(self, values_nd: Tensor) -> list[Tensor]:
        """A row's numbers as the groups have them."""
        first, *others = torch.split(values_nd, list(self.latent_groups), dim=1)
        shaped = (
            part.reshape(-1, *group.shape) for part, group in zip(others, self._groups, strict=True)
        )
        return [first, *shaped]

    @property
    def _groups(self) -> Iterator[LatentGroup]:
        return (cast(LatentGroup, group) for group in self.groups)
