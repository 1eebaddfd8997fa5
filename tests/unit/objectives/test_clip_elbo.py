from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distgen.core.spec import ImageSpec
from distgen.core.world import World
from distgen.models import ClipRVAEConfig, LatentNoise, LatentTerms, build_networks
from distgen.models.clip_rvae import Teaching
from distgen.objectives import ClipELBOConfig, Noise, TrainBatch
from distgen.objectives.clip_elbo import MODEL, ClipELBO, forcing, teach

CPU = torch.device("cpu")
FRAMES = 6


def noise_for(world: World = World(), total: int = 12, seen: int = 64) -> Noise:  # noqa: B008
    return Noise(0, seen, world, total, CPU)


@given(st.floats(0.0, 1.0), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_teacher_forcing_falls_from_always_to_its_end(end: float, over: int, seen: int, more: int):
    config = ClipELBOConfig(teacher_forcing=end, teacher_forcing_images=over)
    assert end <= forcing(config, seen + more) <= forcing(config, seen) + 1e-12
    assert forcing(config, seen) <= 1.0
    assert forcing(config, over) == end
    if over:
        assert forcing(config, 0) == 1.0
        assert forcing(config, over // 2) == pytest.approx(1 - (1 - end) * (over // 2) / over)


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_what_is_hidden_depends_on_neither_ranks_nor_earlier_draws(
    ranks: int, seen: int, predicted: float
):
    config = ClipELBOConfig(predicted=predicted, shortest_context=2)
    whole = teach(config, noise_for(seen=seen), FRAMES, seen)
    for rank in range(ranks):
        mine = teach(config, noise_for(World(rank, ranks), seen=seen), FRAMES, seen)
        for found, expected in zip(mine, whole, strict=True):
            assert torch.equal(found, expected[rank::ranks])


@pytest.mark.parametrize("shortest", [1, 3, 5, 40])
def test_contexts_are_drawn_from_the_shortest_to_all_but_one(shortest: int):
    config = ClipELBOConfig(predicted=0.7, shortest_context=shortest, teacher_forcing=0.0)
    teaching = teach(config, noise_for(total=3000), FRAMES, 64)
    lengths = teaching.seen_nt.sum(1)
    expected = torch.arange(FRAMES) < lengths.unsqueeze(1)
    assert torch.equal(teaching.seen_nt, expected), "a context is the first frames"
    assert (lengths < FRAMES).float().mean() == pytest.approx(0.7, abs=0.03)
    first = min(shortest, FRAMES - 1)
    assert set(lengths.unique().tolist()) == set(range(first, FRAMES + 1))
    for length in range(first, FRAMES):
        share = (lengths == length).float().mean()
        assert share == pytest.approx(0.7 / (FRAMES - first), abs=0.03)
    # A context is fed back as it is; nothing of a clip that is seen in full is, at 0.
    partly = lengths < FRAMES
    assert torch.equal(teaching.fed_nt[partly], teaching.seen_nt[partly])
    assert not teaching.fed_nt[~partly].any()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_true_frames_are_fed_back_as_often_as_asked(probability: float):
    config = ClipELBOConfig(predicted=0.0, teacher_forcing=probability)
    teaching = teach(config, noise_for(total=2000), FRAMES, 64)
    assert teaching.seen_nt.all()
    assert teaching.fed_nt.float().mean() == pytest.approx(probability, abs=0.02)


def setting(config: ClipELBOConfig):
    torch.manual_seed(0)
    spec = ImageSpec(height=8, width=8, mode="L", frames=FRAMES)
    model = build_networks(ClipRVAEConfig(latent_dim=2, width=8, state=8), spec)["model"]
    batch = TrainBatch(torch.rand(12, FRAMES, 1, 8, 8) * 2 - 1, None, noise_for(), 64)
    return ClipELBO(config, latent_dim=2 * FRAMES), model, batch


def test_the_loss_is_the_shaped_bound_of_what_is_not_hidden():
    config = ClipELBOConfig(beta=2.0, kl_warmup_images=128, free_bits=0.01, predicted=0.5)
    objective, model, batch = setting(config)
    loss, logs = objective.loss(MODEL, {"model": model}, batch)
    uniforms = batch.noise.uniform("observation", FRAMES, 1, 8, 8)
    normals = batch.noise.normal("posterior", 2 * FRAMES)
    teaching = teach(config, batch.noise, FRAMES, 64)
    terms = model(batch.images_nchw, LatentNoise(uniforms, normals), teaching)
    expected = (-terms.log_likelihood_n + terms.kl_nd.clamp_min(0.01).sum(1)).mean()
    torch.testing.assert_close(loss, expected)
    bound = (-terms.log_likelihood_n + terms.kl_nd.sum(1)).mean().detach()
    torch.testing.assert_close(logs["bound"], bound)
    assert logs["kl_weight"] == 1.0
    assert logs["teacher_forcing"] == 0.5


def test_the_model_receives_the_noise_of_its_batch():
    class Listening(nn.Module):
        def forward(self, clips: Tensor, noise: LatentNoise, teaching: Teaching) -> LatentTerms:
            self.heard, self.told = noise, teaching
            zeros = torch.zeros(len(clips))
            return LatentTerms(zeros, zeros, zeros, torch.zeros(12, 2))

    objective, _, batch = setting(ClipELBOConfig())
    model = Listening()
    objective.loss(MODEL, {"model": model}, batch)
    assert model.heard.uniforms_nchw.shape == batch.images_nchw.shape
    assert torch.equal(model.heard.normals_nd, batch.noise.normal("posterior", 2 * FRAMES))
    assert model.told.seen_nt.shape == (12, FRAMES)
