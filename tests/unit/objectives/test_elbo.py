from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, distributions, nn

from distgen.core.world import World
from distgen.models import LatentNoise, LatentTerms
from distgen.models.likelihoods import Bernoulli
from distgen.models.single import SingleLatentModel
from distgen.objectives import ELBOConfig, Noise, TrainBatch
from distgen.objectives.elbo import ELBO, MODEL, charged_kl, kl_weight


class Linear(nn.Module):
    """A dense layer on flattened inputs."""

    def __init__(self, inputs: int, *shape: int) -> None:
        super().__init__()
        self.shape = shape
        self.layer = nn.Linear(inputs, torch.Size(shape).numel())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.flatten(1)).unflatten(1, self.shape)


def setting(config: ELBOConfig, images_seen: int = 0):
    torch.manual_seed(0)
    model = SingleLatentModel(Linear(4, 6), Linear(3, 1, 2, 2), Bernoulli(), latent_dim=3)
    noise = Noise(0, images_seen, World(), 5, torch.device("cpu"))
    batch = TrainBatch(torch.rand(5, 1, 2, 2) * 2 - 1, None, noise, images_seen)
    return ELBO(config, latent_dim=3), model, batch


def terms_by_hand(model: SingleLatentModel, batch: TrainBatch) -> tuple[Tensor, Tensor]:
    """-log p(x|z) [n] and KL [n, d] through torch.distributions."""
    uniforms = batch.noise.uniform("observation", 1, 2, 2)
    observed = (uniforms < (batch.images_nchw + 1) / 2).float()
    mean, raw = model.encoder(observed).chunk(2, dim=1)
    posterior = distributions.Normal(mean, (7 * torch.tanh(raw / 7)).exp())
    latents = mean + posterior.scale * batch.noise.normal("posterior", 3)
    pixels = distributions.Bernoulli(logits=model.decoder(latents))
    prior = distributions.Normal(torch.zeros(()), torch.ones(()))
    kl = distributions.kl_divergence(posterior, prior)
    return -pixels.log_prob(observed).flatten(1).sum(1), kl


def test_the_loss_is_the_negative_bound():
    objective, model, batch = setting(ELBOConfig())
    loss, logs = objective.loss(MODEL, {"model": model}, batch)
    reconstruction, kl = terms_by_hand(model, batch)
    torch.testing.assert_close(loss, (reconstruction + kl.sum(1)).mean())
    torch.testing.assert_close(logs["reconstruction"], reconstruction.mean().detach())
    torch.testing.assert_close(logs["kl"], kl.sum(1).mean().detach())
    torch.testing.assert_close(logs["bound"], loss.detach())


def test_beta_warm_up_and_free_bits_shape_the_loss_but_not_the_logged_bound():
    config = ELBOConfig(beta=2.0, kl_warmup_images=1000, free_bits=0.3)
    objective, model, batch = setting(config, images_seen=250)
    loss, logs = objective.loss(MODEL, {"model": model}, batch)
    reconstruction, kl = terms_by_hand(model, batch)
    charged = torch.maximum(kl, torch.tensor(0.3)).sum(1).mean()
    torch.testing.assert_close(loss, reconstruction.mean() + 0.5 * charged)
    assert logs["kl_weight"] == 0.5
    torch.testing.assert_close(logs["bound"], (reconstruction + kl.sum(1)).mean().detach())


def test_free_bits_cost_nothing_below_the_floor():
    kl = torch.tensor([[0.1, 0.7], [0.4, 0.0]], requires_grad=True)
    charged = charged_kl(kl, 0.3)
    torch.testing.assert_close(charged.detach(), torch.tensor([1.0, 0.7]))
    charged.sum().backward()
    assert kl.grad is not None
    assert kl.grad.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    torch.testing.assert_close(charged_kl(kl, 0.0), kl.sum(1))


def test_free_bits_of_several_groups_are_each_group_s():
    kl = torch.tensor([[0.1, 0.1, 0.5, 0.0], [0.9, 0.0, 0.1, 0.1]], requires_grad=True)
    charged = charged_kl(kl, 0.3, (2, 2))
    torch.testing.assert_close(charged.detach(), torch.tensor([0.8, 1.2]))
    charged.sum().backward()
    assert kl.grad is not None
    assert kl.grad.tolist() == [[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]]


def test_the_logs_of_a_hierarchy_hold_the_kl_of_each_group():
    _, model, batch = setting(ELBOConfig())
    objective = ELBO(ELBOConfig(), latent_dim=3, latent_groups=(1, 2))
    _, logs = objective.loss(MODEL, {"model": model}, batch)
    _, kl = terms_by_hand(model, batch)
    torch.testing.assert_close(logs["kl_group_1"], kl[:, 0].mean().detach())
    torch.testing.assert_close(logs["kl_group_2"], kl[:, 1:].sum(1).mean().detach())


@given(st.floats(0.0, 10.0), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_warm_up_rises_from_zero_to_beta_and_stays(beta: float, warmup: int, seen: int, more: int):
    config = ELBOConfig(beta=beta, kl_warmup_images=warmup)
    weight = kl_weight(config, seen)
    assert 0.0 <= weight <= kl_weight(config, seen + more) <= beta
    assert kl_weight(config, warmup) == beta
    if warmup:
        assert kl_weight(config, 0) == 0.0
        assert kl_weight(config, warmup // 2) == pytest.approx(beta * (warmup // 2) / warmup)


def test_the_model_receives_the_noise_of_its_batch():
    class Listening(nn.Module):
        def forward(self, images: Tensor, noise: LatentNoise) -> LatentTerms:
            self.heard = noise
            zeros = torch.zeros(len(images))
            return LatentTerms(zeros, zeros, zeros, torch.zeros(5, 3))

    objective, _, batch = setting(ELBOConfig())
    model = Listening()
    objective.loss(MODEL, {"model": model}, batch)
    assert model.heard.uniforms_nchw.shape == batch.images_nchw.shape
    assert torch.equal(model.heard.normals_nd, batch.noise.normal("posterior", 3))
