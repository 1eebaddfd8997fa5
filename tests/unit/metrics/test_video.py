"""Figures of predicted frames: by hand, beside the floor, and the same on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distgen.core.errors import DataError, UsageError
from distgen.core.world import World
from distgen.data import open_shard_set
from distgen.metrics import video
from distgen.metrics.cache import ArrayCache
from distgen.metrics.card import Card, evaluate_card
from distgen.metrics.generated import PictureMaker
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import choose_pictures
from distgen.metrics.request import EvaluationConfig, context_of
from distgen.metrics.similarity import decibels, squared_error, ssim
from distgen.metrics.video import Predictor, best_of, futures_for, measure
from distgen.models import RVAEConfig
from distgen.registry.layout import parse_card
from distgen.registry.model_card import conditions, quality_rows
from tests.unit.clip_models import build_clips, tiny_model
from tests.unit.metrics.test_card import figures, on_ranks

CONFIG = RVAEConfig(latent_dim=4)
SMALL = EvaluationConfig(
    samples=30,
    extractors=("pixel-pca64",),
    importance_samples=3,
    likelihood_images=10,
    neighbours=3,
    prediction_clips=21,
    prediction_futures=3,
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory):
    place = build_clips(tmp_path_factory.mktemp("clips") / "set")
    return open_shard_set(place, "train"), open_shard_set(place, "test")


class Oracle:
    """Knows the clips: predicts the truth, or the truth and a constant for odd futures."""

    latent_dim = 2

    def __init__(self, clips_nthwc: np.ndarray, add: float = 0.0) -> None:
        self.clips = torch.from_numpy(clips_nthwc).movedim(-1, -3).float() / 127.5 - 1.0
        self.add = add
        self.calls = 0

    def predict(self, context_ntchw, num_frames, normals_nd):
        self.calls += 1
        known = self.clips[:, : context_ntchw.shape[1]]
        rows = [int((known == given).flatten(1).all(1).nonzero()[0]) for given in context_ntchw]
        return self.clips[rows, -num_frames:] + self.add * (self.calls % 2)


def test_the_tiny_model_is_a_predictor():
    assert isinstance(tiny_model(), Predictor)
    assert not isinstance(torch.nn.Linear(1, 1), Predictor)


def test_figures_are_those_of_the_frames_themselves(sets):
    _, held_out = sets
    chosen = choose_pictures(held_out, 5, "test", "prediction")
    model = tiny_model()
    scores = measure(model, chosen, context=4, futures=2, seed=1, device=CPU, ranks=Ranks())
    clips = chosen.samples(range(5))
    truth, last = clips[:, 4:], clips[:, 3:4].repeat(2, axis=1)
    mse = squared_error(last, truth)
    assert (scores.clips, scores.context, scores.predicted, scores.futures) == (5, 4, 2, 2)
    np.testing.assert_allclose(scores.last_frame.mse_by_frame, mse.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scores.last_frame.mse_summed, mse.mean() * 256 / 255**2, rtol=1e-12)
    np.testing.assert_allclose(scores.last_frame.psnr, decibels(mse).mean(), rtol=1e-12)
    np.testing.assert_allclose(scores.last_frame.ssim, ssim(last, truth).mean(), rtol=1e-12)
    normals = futures_for(1, chosen.indices_n.tolist(), 2, 4)
    given = torch.from_numpy(clips[:, :4]).movedim(-1, -3).float() / 127.5 - 1.0
    predicted = [model.predict(given, 2, normals[:, k]) for k in range(2)]
    mean = ((predicted[0] + predicted[1]) / 2 + 1).mul(127.5).round().movedim(-3, -1).numpy()
    np.testing.assert_allclose(scores.mean.mse, squared_error(mean, truth).mean(), rtol=1e-12)
    central = model.predict(given, 2, torch.zeros(5, 4)).add(1).mul(127.5).round()
    expected = squared_error(central.movedim(-3, -1).numpy(), truth).mean()
    np.testing.assert_allclose(scores.central.mse, expected, rtol=1e-12)


def test_the_truth_is_the_best_of_several_and_known_by_its_figures(sets):
    _, held_out = sets
    chosen = choose_pictures(held_out, 8, "test", "prediction")
    oracle = Oracle(chosen.samples(range(8)), add=0.4)
    scores = measure(oracle, chosen, context=3, futures=2, seed=0, device=CPU, ranks=Ranks())
    assert (scores.best.mse, scores.best.psnr) == (0.0, 100.0)
    assert scores.best.ssim == pytest.approx(1.0)
    assert 0 < scores.mean.mse < scores.single.mse
    assert scores.single.psnr < 100


def test_the_best_is_chosen_by_each_figure_and_clip_for_itself():
    figures_kn3t = np.zeros((2, 2, 3, 2))
    figures_kn3t[:, :, 0] = [[[4, 4], [1, 1]], [[1, 3], [3, 3]]]
    figures_kn3t[:, :, 1] = [[[9, 9], [1, 1]], [[8, 9], [5, 1]]]
    figures_kn3t[:, :, 2] = [[[0, 0], [1, 0]], [[1, 0], [0, 2]]]
    best = best_of(figures_kn3t)
    assert best[:, 0].tolist() == [[1, 3], [1, 1]]
    assert best[:, 1].tolist() == [[9, 9], [5, 1]]
    assert best[:, 2].tolist() == [[1, 0], [0, 2]]


def test_a_future_depends_on_seed_and_clip_only():
    both = futures_for(5, [7, 9], 3, 4)
    assert torch.equal(futures_for(5, [9], 3, 4), both[1:])
    assert not torch.equal(futures_for(6, [9], 3, 4), both[1:])
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize("size", [2, 5])
def test_many_ranks_measure_what_one_measures(size, sets, tmp_path):
    data, held_out = sets
    model = tiny_model()
    alone = evaluate_card(
        model, CONFIG, data, held_out, SMALL, seed=3, cache=ArrayCache(tmp_path / "one")
    )

    def evaluate(world: World, gather) -> Card:
        cache = ArrayCache(tmp_path / f"rank-{world.rank}")
        return evaluate_card(
            model, CONFIG, data, held_out, SMALL, seed=3, world=world, gather=gather, cache=cache
        )

    cards = on_ranks(size, evaluate)
    assert all(card == cards[0] for card in cards)
    np.testing.assert_allclose(figures(cards[0]), figures(alone), rtol=1e-6, atol=1e-6)
    assert alone.video is not None
    assert cards[0].video is not None
    frames = [card.video.mean.ssim_by_frame for card in (alone, cards[0])]
    np.testing.assert_allclose(*frames, rtol=1e-6)
    assert len(frames[0]) == 3


def test_a_card_says_what_it_compares_and_how(sets, tmp_path):
    data, held_out = sets
    card = evaluate_card(
        tiny_model(), CONFIG, data, held_out, SMALL, cache=ArrayCache(tmp_path), images_seen=7
    )
    assert card.frames == 6
    assert card.yardstick["pictures"] == "one frame of each clip of 6"
    assert {"prediction_mse_summed/mean", "prediction_ssim/last_frame"} <= card.figures().keys()
    assert parse_card(card.model_dump_json().encode(), data.location) == card
    rows = {row.figure: row for row in quality_rows(card)}
    best = rows["SSIM, best of 3 predictions"]
    assert best.better == "higher"
    assert (
        f"{card.video.best.ssim:.4g} (last frame: {card.video.last_frame.ssim:.4g})" == best.value
    )
    said = " ".join(conditions(card))
    assert "3 frames from the 3 before them, of 21 held-out clips, 3 predictions of each" in said
    assert "one of each clip" in said
    assert card.likelihood.images == 10
    assert card.likelihood.bits_per_dim == pytest.approx(
        card.likelihood.bound_nats / (6 * 16 * 16 * np.log(2))
    )


def test_generated_clips_give_the_frames_that_real_ones_give(sets):
    data, _ = sets
    reference = choose_pictures(data, 30, "train", "reference")
    model = tiny_model()
    times = torch.arange(6).view(1, 6, 1, 1, 1).expand(1, 6, 1, 16, 16)
    model.sample = lambda latents, _=None: (
        times.expand(len(latents), -1, -1, -1, -1).float() / 127.5 - 1.0
    )
    maker = PictureMaker(model, None, 0, CPU, frames_n=reference.frames_n)
    pictures = maker.pictures(range(10, 30))
    assert pictures.shape == (20, 16, 16, 1)
    assert pictures[:, 0, 0, 0].tolist() == reference.frames_n[10:].tolist()


def test_a_picture_of_a_clip_is_one_of_its_frames_and_all_frames_are_taken(sets):
    data, _ = sets
    chosen = choose_pictures(data, 40, "train", "reference")
    pictures, clips = chosen.pictures(range(3, 40)), chosen.samples(range(3, 40))
    assert chosen.frames_n is not None
    for picture, clip, frame in zip(pictures, clips, chosen.frames_n[3:], strict=True):
        np.testing.assert_array_equal(picture, clip[frame])
    assert set(chosen.frames_n.tolist()) == set(range(6))


def test_a_card_from_before_there_were_clips_still_loads(sets, tmp_path):
    data, held_out = sets
    card = evaluate_card(tiny_model(), CONFIG, data, held_out, SMALL, cache=ArrayCache(tmp_path))
    old = card.model_dump(mode="json", exclude={"video", "frames"})
    assert Card.model_validate(old).video is None
    with pytest.raises(DataError):
        parse_card(b'{"version": 1, "video": 3}', data.location)


def test_given_frames_must_leave_some_to_predict():
    assert context_of(EvaluationConfig(), 20) == 10
    assert context_of(EvaluationConfig(context_frames=3), 20) == 3
    with pytest.raises(UsageError, match="context_frames is 20") as error:
        context_of(EvaluationConfig(context_frames=20), 20)
    assert error.value.remedy == "at most 19"


def test_broken_predictions_are_scored_as_grey(sets):
    _, held_out = sets
    chosen = choose_pictures(held_out, 3, "test", "prediction")
    oracle = Oracle(chosen.samples(range(3)))
    oracle.clips[:, 3:] = torch.nan
    scores = measure(oracle, chosen, context=3, futures=1, seed=0, device=CPU, ranks=Ranks())
    assert np.isfinite(list(scores.figures().values())).all()
    assert video.BLOCK > 3
