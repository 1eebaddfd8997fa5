"""Latents that follow one another in time: a recurrent prior and posterior, and what they rest on.

The sequence is rows of a picture for one family and frames of a clip for another; nothing here
knows which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distgen.models.gaussians import DiagonalGaussian, standard_normal_log_prob
from distgen.models.layers import activate, linear


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


class State(NamedTuple):
    """What a sequence has come to, before its next step; float32."""

    hidden_nh: Tensor
    cell_nh: Tensor


class Drawn(NamedTuple):
    """One step's latents, and their terms of the bound (see `LatentTerms`).

    As a change of variables alters prior and posterior alike, the terms are those of the standard
    normal numbers that the prior makes its latents of.
    """

    latents_nd: Tensor
    standard_nd: Tensor
    """The standard normal numbers of which the prior would make these latents."""
    log_prior_n: Tensor
    log_posterior_n: Tensor
    kl_nd: Tensor


class LatentSteps(nn.Module):
    """p(z_t | s_t) and q(z_t | s_t, evidence_t), with the state s_t an LSTM over what came before.

    The variational recurrent network of Chung et al. 2015 (equations 5 to 9): the state has read
    all earlier latents, and all earlier observations where the caller gives them as inputs. The
    posterior is told as a change to the prior (Vahdat & Kautz 2020, section 3.2), so that a step
    that has nothing to say costs nothing from the start.

    Args:
        latent_dim: Size of each step's latent vector.
        width: Hidden units of the state.
        evidence: Size of what the posterior reads of the data at each step.
        inputs: Size of what the state reads beside the latents.
    """

    def __init__(self, latent_dim: int, width: int, evidence: int, inputs: int = 0) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.width = width
        self.cell = nn.LSTMCell(latent_dim + inputs, width)
        self.first = nn.Parameter(torch.zeros(2, width))
        self.prior_hidden = linear(width, width)
        self.prior_outputs = linear(width, 2 * latent_dim, gain=0.1)
        self.posterior_hidden = linear(width + evidence, width)
        self.posterior_outputs = linear(width, 2 * latent_dim, gain=0.1)

    def start(self, count: int) -> State:
        """The learned state of `count` sequences of which nothing is known yet."""
        hidden_nh, cell_nh = self.first.float().unsqueeze(1).expand(-1, count, -1)
        return State(hidden_nh, cell_nh)

    def advance(self, state: State, latents_nd: Tensor, inputs_nf: Tensor | None = None) -> State:
        """The state of the next step."""
        read = latents_nd if inputs_nf is None else torch.cat((latents_nd, inputs_nf), dim=1)
        # As `Recurrence`: rounding would compound.
        with torch.autocast(read.device.type, enabled=False):
            return State(*self.cell(read.float(), tuple(state)))

    def prior(self, state: State) -> DiagonalGaussian:
        """p(z_t | s_t)."""
        features = activate(self.prior_hidden(state.hidden_nh))
        return DiagonalGaussian.of(*self.prior_outputs(features).float().chunk(2, dim=1))

    def posterior(self, state: State, evidence_nf: Tensor) -> DiagonalGaussian:
        """q(z_t | s_t, evidence_t) in units of the prior: of its mean and its scale."""
        read = torch.cat((state.hidden_nh, evidence_nf), dim=1)
        features = activate(self.posterior_hidden(read))
        return DiagonalGaussian.of(*self.posterior_outputs(features).float().chunk(2, dim=1))

    def draw(
        self, state: State, evidence_nf: Tensor, normals_nd: Tensor, kept: Tensor | None = None
    ) -> Drawn:
        """Latents of the posterior, with the terms of the bound.

        Args:
            state: Of this step.
            evidence_nf: What the posterior reads of the data.
            normals_nd: Standard normal numbers.
            kept: Bool, [n, 1] or [latent_dim]; where False, the posterior is taken to be the prior,
                as if there were no evidence. That is a posterior like any other: a KL of zero, and
                still a bound.
        """
        posterior = self.posterior(state, evidence_nf)
        if kept is not None:
            posterior = posterior.where(kept)
        standard_nd = posterior.sample(normals_nd)
        return Drawn(
            latents_nd=self.imagine(state, standard_nd),
            standard_nd=standard_nd,
            log_prior_n=standard_normal_log_prob(standard_nd).sum(1),
            log_posterior_n=posterior.log_prob(standard_nd).sum(1),
            kl_nd=posterior.kl_to_standard(),
        )

    def imagine(self, state: State, normals_nd: Tensor) -> Tensor:
        """Latents [n, d] of the prior."""
        return self.prior(state).sample(normals_nd)

    def nothing(self, state: State) -> Tensor:
        """Latents [n, d] that stand before the first step: zeros."""
        return state.hidden_nh.new_zeros(len(state.hidden_nh), self.latent_dim)


class Unrolled(NamedTuple):
    """A whole sequence of latents that read no data between steps."""

    states_nth: Tensor
    """The state before each step."""
    latents_ntd: Tensor
    drawn: tuple[Drawn, ...]
    """Terms of the bound by step; none where the prior was asked."""


def unroll(
    steps: LatentSteps,
    normals_ntd: Tensor,
    evidence_ntf: Tensor | None,
    kept_td: Tensor | None = None,
) -> Unrolled:
    """All steps in a row: from the posterior where there is evidence, else from the prior.

    Args:
        steps: Prior and posterior.
        normals_ntd: Standard normal numbers.
        evidence_ntf: What the posterior reads of the data.
        kept_td: Latents that are the posterior's (bool); all by default.
    """
    state = steps.start(len(normals_ntd))
    states: list[Tensor] = []
    latents: list[Tensor] = []
    drawn: list[Drawn] = []
    for step, normals_nd in enumerate(normals_ntd.unbind(1)):
        if step:
            state = steps.advance(state, latents[-1])
        states.append(state.hidden_nh)
        if evidence_ntf is None:
            latents.append(steps.imagine(state, normals_nd))
        else:
            kept_d = None if kept_td is None else kept_td[step]
            drawn.append(steps.draw(state, evidence_ntf[:, step], normals_nd, kept_d))
            latents.append(drawn[-1].latents_nd)
    return Unrolled(torch.stack(states, 1), torch.stack(latents, 1), tuple(drawn))


def summed(drawn: Sequence[Drawn]) -> Drawn:
    """The terms of a whole sequence: its latents and KLs joined, its log densities added."""
    return Drawn(
        latents_nd=torch.cat([step.latents_nd for step in drawn], dim=1),
        standard_nd=torch.cat([step.standard_nd for step in drawn], dim=1),
        log_prior_n=torch.stack([step.log_prior_n for step in drawn]).sum(0),
        log_posterior_n=torch.stack([step.log_posterior_n for step in drawn]).sum(0),
        kl_nd=torch.cat([step.kl_nd for step in drawn], dim=1),
    )
