"""Latents in a row: their terms of the bound are those of the distributions they name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, distributions, nn

from distgen.models.gaussians import DiagonalGaussian
from distgen.models.recurrent import LatentSteps, State, summed, unroll


def steps_of(latent_dim: int = 3, inputs: int = 0) -> LatentSteps:
    torch.manual_seed(0)
    steps = LatentSteps(latent_dim, width=8, evidence=5, inputs=inputs)
    # Fresh networks are nearly at their prior, where much would hold by accident.
    for layer in (steps.prior_outputs, steps.posterior_outputs):
        nn.init.normal_(layer.weight, std=0.5)
        nn.init.normal_(layer.bias, std=0.5)
    return steps


def normal(gaussian: DiagonalGaussian) -> distributions.Normal:
    return distributions.Normal(gaussian.mean_nd, gaussian.log_scale_nd.exp())


@torch.no_grad()
def test_the_terms_of_a_step_are_those_of_torch():
    steps = steps_of()
    state, evidence, normals = steps.start(6), torch.randn(6, 5), torch.randn(6, 3)
    state = steps.advance(state, torch.randn(6, 3))
    drawn = steps.draw(state, evidence, normals)
    p, relative = normal(steps.prior(state)), normal(steps.posterior(state, evidence))
    q = distributions.Normal(p.mean + p.scale * relative.mean, p.scale * relative.scale)
    torch.testing.assert_close(drawn.latents_nd, q.mean + q.scale * normals)
    torch.testing.assert_close(drawn.latents_nd, p.mean + p.scale * drawn.standard_nd)
    torch.testing.assert_close(drawn.kl_nd, distributions.kl_divergence(q, p))
    weight = (p.log_prob(drawn.latents_nd) - q.log_prob(drawn.latents_nd)).sum(1)
    torch.testing.assert_close(drawn.log_prior_n - drawn.log_posterior_n, weight)
    assert drawn.kl_nd.mean() > 0.1


@torch.no_grad()
def test_a_posterior_without_evidence_is_the_prior():
    steps = steps_of()
    state, evidence, normals = steps.start(4), torch.randn(4, 5), torch.randn(4, 3)
    seen = torch.tensor([True, False, True, False])
    drawn, whole = (
        steps.draw(state, evidence, normals, seen[:, None]),
        steps.draw(state, evidence, normals),
    )
    assert torch.equal(drawn.latents_nd[seen], whole.latents_nd[seen])
    assert torch.equal(drawn.latents_nd[~seen], steps.imagine(state, normals)[~seen])
    assert torch.equal(drawn.kl_nd[~seen], torch.zeros(2, 3))
    assert torch.equal(drawn.log_prior_n[~seen], drawn.log_posterior_n[~seen])
    torch.testing.assert_close(drawn.kl_nd[seen], whole.kl_nd[seen])


@torch.no_grad()
def test_unrolled_steps_read_the_latents_before_them_and_no_later_ones():
    steps = steps_of()
    normals = torch.randn(2, 4, 3)
    first = unroll(steps, normals, None)
    changed = normals.clone()
    changed[:, 2] += 1.0
    second = unroll(steps, changed, None)
    assert torch.equal(first.latents_ntd[:, :2], second.latents_ntd[:, :2])
    assert torch.equal(first.states_nth[:, :3], second.states_nth[:, :3])
    assert not torch.allclose(first.latents_ntd[:, 3], second.latents_ntd[:, 3], atol=1e-4)


DECAY, NOISE = 0.8, 0.5
"""z_t = DECAY z_t-1 + innovation, with a variance of 1 at all times; x_t = z_t + NOISE e_t."""
INNOVATION = 1.0 - DECAY**2


class LinearGaussian(LatentSteps):
    """The state-space model whose likelihood and posterior are known in closed form.

    The state is (z_t-1, the variance of z_t given it); evidence is the message from all later
    observations, exp(-J z^2 / 2 + h z), as (J, h).
    """

    def __init__(self) -> None:
        super().__init__(latent_dim=1, width=1, evidence=2)

    def start(self, count: int) -> State:
        return State(torch.zeros(count, 1), torch.ones(count, 1))

    def advance(self, state: State, latents_nd: Tensor, inputs_nf: Tensor | None = None) -> State:
        return State(DECAY * latents_nd, torch.full_like(latents_nd, INNOVATION))

    def prior(self, state: State) -> DiagonalGaussian:
        return DiagonalGaussian(state.hidden_nh, 0.5 * state.cell_nh.log())

    def posterior(self, state: State, evidence_nf: Tensor) -> DiagonalGaussian:
        curvature, slope = evidence_nf.chunk(2, dim=1)
        precision = 1.0 / state.cell_nh + curvature
        mean = (state.hidden_nh / state.cell_nh + slope) / precision
        scale = state.cell_nh.sqrt()
        return DiagonalGaussian(
            (mean - state.hidden_nh) / scale, -0.5 * precision.log() - scale.log()
        )


def messages(observed_nt: Tensor) -> Tensor:
    """What the observations from each time on say of that time's latent, [n, time, 2]."""
    curvature, slope = torch.zeros(len(observed_nt)), torch.zeros(len(observed_nt))
    evidence = []
    for x_n in reversed(observed_nt.unbind(1)):
        curvature, slope = curvature + NOISE**-2, slope + x_n * NOISE**-2
        evidence.append(torch.stack((curvature, slope), 1))
        # Integrate this time's latent out: it is the one before, decayed, and an innovation.
        spread = 1.0 + INNOVATION * curvature
        curvature, slope = DECAY**2 * curvature / spread, DECAY * slope / spread
    return torch.stack(evidence[::-1], 1)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_the_bound_is_exact_where_the_posterior_is(length: int):
    torch.manual_seed(0)
    times = torch.arange(length, dtype=torch.float64)
    covariance = DECAY ** (times[:, None] - times).abs() + NOISE**2 * torch.eye(length)
    truth = distributions.MultivariateNormal(torch.zeros_like(times), covariance)
    observed = truth.sample((5,))
    log_probability = truth.log_prob(observed)
    observed, steps = observed.float(), LinearGaussian()
    for _ in range(3):
        unrolled = unroll(steps, torch.randn(5, length, 1), messages(observed))
        whole = summed(unrolled.drawn)
        pixels = distributions.Normal(unrolled.latents_ntd[:, :, 0], NOISE).log_prob(observed)
        log_weight = pixels.sum(1) + whole.log_prior_n - whole.log_posterior_n
        # Whatever was drawn: the weight of each sample is the likelihood itself.
        torch.testing.assert_close(log_weight, log_probability.float(), rtol=1e-4, atol=1e-4)
    assert whole.kl_nd.shape == (5, length)
    assert math.isclose(whole.kl_nd.min().clamp_max(0.0).item(), 0.0, abs_tol=1e-6)
