"""What models of clips promise: causality, prediction from the context alone, a valid bound."""

from __future__ import annotations

import pytest
import torch

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.models import (
    ClipRVAEConfig,
    LatentNoise,
    LatentVariableModel,
    Sampler,
    build_networks,
)
from distgen.models.clip_rvae import ClipModel, Teaching

FRAMES, STEP = 5, 3
SPEC = ImageSpec(height=16, width=16, mode="L", frames=FRAMES)
CONFIG = ClipRVAEConfig(latent_dim=STEP, width=8, state=8, copies=2, reach=2)


def model_of(spec: ImageSpec = SPEC) -> ClipModel:
    torch.manual_seed(0)
    model = build_networks(CONFIG, spec)["model"]
    assert isinstance(model, ClipModel)
    # Fresh networks are nearly at their prior, where much would hold by accident.
    for layer in (model.steps.prior_outputs, model.steps.posterior_outputs):
        torch.nn.init.normal_(layer.weight, std=1.0)
    return model.eval()


def clips(count: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, FRAMES, 1, 16, 16, generator=generator) * 2 - 1


def noise_for(images: torch.Tensor, model: ClipModel) -> LatentNoise:
    generator = torch.Generator().manual_seed(2)
    return LatentNoise(
        torch.rand(images.shape, generator=generator),
        torch.randn(len(images), model.latent_dim, generator=generator),
    )


def test_it_is_a_sampler_and_a_latent_variable_model():
    model = model_of()
    assert isinstance(model, Sampler)
    assert isinstance(model, LatentVariableModel)
    assert model.latent_groups == (STEP,) * FRAMES
    assert model.latent_dim == STEP * FRAMES
    assert model.num_classes == 0


@torch.no_grad()
def test_the_terms_are_one_sample_of_the_bound():
    model, images = model_of(), clips(3)
    noise = noise_for(images, model)
    terms = model(images, noise)
    observed = model.observe(images, noise.uniforms_nchw)
    parts = model.terms(observed, model.encode(observed), noise.normals_nd)
    assert terms.kl_nd.shape == (3, model.latent_dim)
    for whole, part in zip(terms, parts, strict=True):
        assert torch.equal(whole, part)
        assert whole.dtype == torch.float32


@torch.no_grad()
def test_the_closed_form_kls_are_right_on_average():
    model, images = model_of(), clips(1).expand(2000, -1, -1, -1, -1)
    terms = model(images, noise_for(images, model))
    sampled = (terms.log_posterior_n - terms.log_prior_n).mean()
    torch.testing.assert_close(sampled, terms.kl_nd.sum(1).mean(), rtol=0.05, atol=0.05)
    assert terms.kl_nd.sum(1).mean() > 0.5


@torch.no_grad()
def test_samples_of_one_posterior_can_be_weighed_in_chunks():
    model, images = model_of(), clips(2)
    observed = model.observe(images, torch.rand(images.shape))
    normals = torch.randn(4, model.latent_dim)
    rows = [part.repeat_interleave(2, dim=0) for part in (observed, *model.encode(observed))]
    whole = model.terms(rows[0], tuple(rows[1:]), normals)
    for i in (0, 2):
        some = slice(i, i + 2)
        chunk = model.terms(rows[0][some], tuple(part[some] for part in rows[1:]), normals[some])
        for found, expected in zip(chunk, whole, strict=True):
            torch.testing.assert_close(found, expected[some], rtol=1e-4, atol=1e-3)


def steps_of(model: ClipModel, images: torch.Tensor, teaching: Teaching | None = None):
    """What each step's prior puts out, and each expected frame, for the same noise always."""
    priors: list[torch.Tensor] = []
    hook = model.steps.prior_outputs.register_forward_hook(lambda *seen: priors.append(seen[2]))
    normals = noise_for(images, model).normals_nd.unflatten(1, (FRAMES, -1))
    means, _ = model._run(normals, model.encode(images)[0], images, teaching)
    hook.remove()
    return torch.stack(priors, 1), means


@torch.no_grad()
@pytest.mark.parametrize("changed", [0, 2, 4])
def test_a_frames_prior_has_read_the_frames_before_it_and_no_other(changed: int):
    model, images = model_of(), clips(2)
    others = images.clone()
    others[:, changed] = clips(2, seed=9)[:, changed]
    priors, means = steps_of(model, images)
    other_priors, other_means = steps_of(model, others)
    assert torch.equal(priors[:, : changed + 1], other_priors[:, : changed + 1])
    assert torch.equal(means[:, :changed], other_means[:, :changed])
    assert not torch.allclose(means[:, changed], other_means[:, changed], atol=1e-4), "posterior"
    if changed + 1 < FRAMES:
        later = slice(changed + 1, None)
        assert not torch.allclose(priors[:, later], other_priors[:, later], atol=1e-4)


@torch.no_grad()
def test_what_teaching_hides_reaches_nothing():
    model, images = model_of(), clips(2)
    others = images.clone()
    others[:, 3:] = clips(2, seed=9)[:, 3:]
    seen = (torch.arange(FRAMES) < 3).expand(2, -1)
    teaching = Teaching(fed_nt=seen, seen_nt=seen)
    for found, expected in zip(
        steps_of(model, others, teaching), steps_of(model, images, teaching), strict=True
    ):
        assert torch.equal(found, expected)
    terms = model(images, noise_for(images, model), teaching)
    by_step = terms.kl_nd.unflatten(1, (FRAMES, -1)).sum(2)
    assert (by_step[:, :3] > 0).all()
    assert torch.equal(by_step[:, 3:], torch.zeros(2, 2))


@torch.no_grad()
def test_teaching_is_for_each_clip_and_step_alone():
    model, images = model_of(), clips(3)
    everything = torch.ones(3, FRAMES, dtype=torch.bool)
    priors, means = steps_of(model, images)
    for found, expected in zip(
        steps_of(model, images, Teaching(everything, everything)), (priors, means), strict=True
    ):
        assert torch.equal(found, expected)
    fed = everything.clone()
    fed[1, 2] = False
    _, mixed = steps_of(model, images, Teaching(fed, everything))
    assert torch.equal(mixed[[0, 2]], means[[0, 2]])
    assert torch.equal(mixed[1, :3], means[1, :3])
    assert not torch.allclose(mixed[1, 3], means[1, 3], atol=1e-4)


@torch.no_grad()
def test_predictions_are_a_function_of_context_and_normals_alone():
    model, images = model_of(), clips(2)
    normals = torch.randn(2, model.latent_dim, generator=torch.Generator().manual_seed(3))
    predicted = model.predict(images[:, :3], 2, normals)
    assert predicted.shape == (2, 2, 1, 16, 16)
    assert predicted.abs().max() <= 1.0
    torch.manual_seed(77)
    assert torch.equal(predicted, model.predict(images[:, :3], 2, normals))
    # Only the numbers of the steps that are predicted count.
    assert torch.equal(predicted, model.predict(images[:, :3], 2, normals[:, -2 * STEP :]))
    assert not torch.allclose(predicted, model.predict(images[:, :3], 2, -normals), atol=1e-4)
    mean = model.predict(images[:, :3], 2)
    assert torch.equal(mean, model.predict(images[:, :3], 2, torch.zeros(2, model.latent_dim)))
    assert not torch.allclose(mean, model.predict(clips(2, seed=9)[:, :3], 2), atol=1e-4)
    further = model.predict(images[:, :3], 6)
    assert further.shape[1] == 6, "longer than the clips of the training"
    assert torch.equal(further[:, :2], mean)


@torch.no_grad()
def test_a_prediction_is_what_is_hidden_in_training():
    model, images = model_of(), clips(2)
    seen = (torch.arange(FRAMES) < 3).expand(2, -1)
    (evidence,) = model.encode(images)
    no_noise = torch.zeros(2, FRAMES, STEP)
    means, _ = model._run(no_noise, evidence, images, Teaching(seen, seen))
    torch.testing.assert_close(model.predict(images[:, :3], 2), means[:, 3:])


@torch.no_grad()
def test_samples_are_a_function_of_their_normals_in_drawing_order():
    model = model_of()
    normals = torch.randn(2, model.latent_dim)
    first = model.sample(normals)
    assert first.shape == (2, FRAMES, 1, 16, 16)
    torch.manual_seed(5)
    assert torch.equal(first, model.sample(normals))
    changed = normals.clone()
    changed[:, 2 * STEP : 3 * STEP] += 2.0
    second = model.sample(changed)
    assert torch.equal(first[:, :2], second[:, :2])
    assert not torch.allclose(first[:, 2:], second[:, 2:], atol=1e-4)


@torch.no_grad()
def test_reconstructions_draw_no_noise_and_are_fed_no_true_frame():
    model, images = model_of(), clips(2)
    first = model.reconstruct(images)
    assert torch.equal(first, model.reconstruct(images))
    (evidence,) = model.encode(images)
    nothing = torch.zeros(2, FRAMES, dtype=torch.bool)
    hidden = Teaching(fed_nt=nothing, seen_nt=~nothing)
    means, _ = model._run(torch.zeros(2, FRAMES, STEP), evidence, images, hidden)
    assert torch.equal(first, means)


def test_pictures_and_clips_of_one_frame_are_refused():
    with pytest.raises(UsageError, match="makes clips, not pictures") as caught:
        build_networks(CONFIG, ImageSpec(height=16, width=16, mode="L"))
    assert "with --frames" in str(caught.value)
    with pytest.raises(UsageError, match="one frame") as caught:
        build_networks(CONFIG, SPEC.model_copy(update={"frames": 1}))
    assert "more --frames" in str(caught.value.remedy)
