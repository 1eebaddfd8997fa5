"""The card: one result for any number of ranks, with a floor, and cheap the second time."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from distgen.core.errors import DataError, UsageError
from distgen.core.world import World
from distgen.data import open_shard_set
from distgen.data.index import IndexReader
from distgen.data.streaming.bad import Tolerance
from distgen.metrics import reals
from distgen.metrics.cache import ArrayCache
from distgen.metrics.card import Card, evaluate_card
from distgen.metrics.generated import labels_like, latents_for
from distgen.metrics.reals import choose_yardstick
from distgen.metrics.request import EvaluationConfig
from distgen.models import GANConfig, VAEConfig, build_networks
from tests.unit.metrics.ranks_in_threads import on_ranks

GAN = GANConfig(latent_dim=8, width=8, conditional=True)
VAE = VAEConfig(latent_dim=4, width=8)
SMALL = EvaluationConfig(
    samples=150,
    extractors=("pixel-pca64",),
    importance_samples=3,
    likelihood_images=20,
    neighbours=3,
)


@pytest.fixture
def sets(digits):
    return open_shard_set(digits, "train"), open_shard_set(digits, "test")


@pytest.fixture
def cache(tmp_path) -> ArrayCache:
    return ArrayCache(tmp_path / "cache")


def served(config, spec) -> nn.Module:
    torch.manual_seed(0)
    networks = build_networks(config, spec)
    return networks["generator" if config.family == "gan" else "model"].eval()


def figures(card: Card) -> list[float]:
    floors = [f for e in card.extractors for f in e.floor.model_dump().values()]
    return [*card.figures().values(), *floors]


def test_it_is_told_how_far_distances_are_from_floor_to_scores(sets, cache, monkeypatch):
    monkeypatch.setattr(reals, "_REFERENCES", {})
    data, held_out = sets
    told: list[str] = []
    model = served(GAN, data.spec)
    evaluate_card(model, GAN, data, held_out, SMALL, seed=3, cache=cache, on_progress=told.append)
    # The reference's own distances, the floor's and those between them; then the generated ones'.
    assert told.count("floor in pixel-pca64 150/150") == 3
    assert told.count("scores in pixel-pca64 150/150") == 2


@pytest.mark.parametrize("config", [GAN, VAE], ids=lambda c: c.family)
@pytest.mark.parametrize("size", [2, 5])
def test_many_ranks_measure_what_one_measures(config, size, sets, tmp_path):
    data, held_out = sets
    model = served(config, data.spec)
    alone = evaluate_card(
        model, config, data, held_out, SMALL, seed=3, cache=ArrayCache(tmp_path / "one")
    )

    def evaluate(world: World, gather) -> Card:
        cache = ArrayCache(tmp_path / f"rank-{world.rank}")
        return evaluate_card(
            model, config, data, held_out, SMALL, seed=3, world=world, gather=gather, cache=cache
        )

    cards = on_ranks(size, evaluate)
    assert all(card == cards[0] for card in cards)
    np.testing.assert_allclose(figures(cards[0]), figures(alone), rtol=1e-6, atol=1e-6)


def test_a_cache_on_one_rank_only_does_not_part_them(sets, tmp_path):
    data, held_out = sets
    model = served(GAN, data.spec)
    warm = ArrayCache(tmp_path / "warm")
    alone = evaluate_card(model, GAN, data, held_out, SMALL, cache=warm)

    def evaluate(world: World, gather) -> Card:
        cache = ArrayCache(tmp_path / ("warm" if world.rank == 1 else "cold"))
        return evaluate_card(
            model, GAN, data, held_out, SMALL, world=world, gather=gather, cache=cache
        )

    np.testing.assert_allclose(figures(on_ranks(2, evaluate)[0]), figures(alone), rtol=1e-6)


def test_both_extractors_with_their_floors(sets, cache):
    data, held_out = sets
    config = EvaluationConfig(samples=40)
    model = served(GAN, data.spec)
    card = evaluate_card(model, GAN, data, held_out, config, images_seen=7, cache=cache)
    names = [scores.name for scores in card.extractors]
    assert names == ["efficientnet-lite0", "pixel-pca64"]
    assert card.headline == card.extractors[0].generated.frechet_distance
    for scores in card.extractors:
        # An untrained generator is far from the data, real pictures are near it.
        assert scores.generated.frechet_distance > 2 * scores.floor.frechet_distance
        assert scores.floor.coverage > 0.7 > scores.generated.coverage
        assert len(scores.digest) == 64
    assert (card.samples, card.floor_split, card.images_seen, card.family) == (40, "test", 7, "gan")
    assert card.data.fingerprint == data.fingerprint
    assert Card.model_validate_json(card.model_dump_json(indent=2)) == card
    assert next(iter(card.figures())) == "frechet_distance/efficientnet-lite0"


def test_likelihood_models_have_a_bound_and_others_have_none(sets, cache):
    data, held_out = sets
    vae = evaluate_card(served(VAE, data.spec), VAE, data, held_out, SMALL, cache=cache)
    assert vae.likelihood is not None
    assert (vae.likelihood.images, vae.likelihood.importance_samples) == (20, 3)
    assert vae.figures()["bound_nats"] == vae.likelihood.bound_nats
    gan = evaluate_card(served(GAN, data.spec), GAN, data, held_out, SMALL, cache=cache)
    assert gan.likelihood is None


def test_the_second_evaluation_looks_at_no_real_picture(sets, tmp_path, monkeypatch):
    data, held_out = sets
    model = served(GAN, data.spec)
    first = evaluate_card(model, GAN, data, held_out, SMALL, cache=ArrayCache(tmp_path))

    def refuse(*_args: object) -> None:
        raise AssertionError("real pictures were read again")

    monkeypatch.setattr(reals, "read_samples", refuse)
    again = evaluate_card(model, GAN, data, held_out, SMALL, cache=ArrayCache(tmp_path))
    assert figures(again) == figures(first)


def test_a_damaged_cache_costs_time_and_nothing_else(sets, tmp_path):
    data, held_out = sets
    model = served(GAN, data.spec)
    first = evaluate_card(model, GAN, data, held_out, SMALL, cache=ArrayCache(tmp_path))
    files = sorted(tmp_path.glob("*.bin"))
    assert len(files) == 4  # the PCA, two sets of features, the floor
    for number, file in enumerate(files):
        whole = file.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        file.write_bytes(whole[: len(whole) // 3] if number % 2 else flipped)
    again = evaluate_card(model, GAN, data, held_out, SMALL, cache=ArrayCache(tmp_path))
    assert figures(again) == figures(first)


def test_damaged_pictures_are_replaced_where_the_run_replaces_them(digits, cache, tmp_path):
    shutil.copytree(digits, tmp_path / "damaged")
    data, held_out = (open_shard_set(str(tmp_path / "damaged"), part) for part in ("train", "test"))
    for each in (data, held_out):
        place = each.shard(0).local
        content = bytearray(place.read_bytes())
        for offset in IndexReader(each).rows(0).offset[5:60:10].tolist():
            content[offset + 30] ^= 4
        place.write_bytes(content)
    model = served(VAE, data.spec)
    with pytest.raises(DataError, match="checksum"):
        evaluate_card(model, VAE, data, held_out, SMALL, cache=cache)
    lenient = Tolerance("substitute", 0.1)
    lines = EvaluationConfig(**{**SMALL.model_dump(), "likelihood_images": 10_000})
    card = evaluate_card(model, VAE, data, held_out, lines, cache=cache, tolerance=lenient)
    assert card.samples == 150
    # What was put in place of damaged pictures is not kept for those who do not want it.
    with pytest.raises(DataError, match="checksum"):
        evaluate_card(served(GAN, data.spec), GAN, data, held_out, SMALL, cache=cache)


def test_a_diverged_model_is_measured_and_told(sets, cache):
    data, held_out = sets
    model = served(GAN, data.spec)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    card = evaluate_card(model, GAN, data, held_out, SMALL, cache=cache)
    assert card.not_finite == 150
    assert np.isfinite(figures(card)).all()


def test_a_bound_that_is_no_number_is_told_and_comes_back(sets, cache):
    data, held_out = sets
    model = served(VAE, data.spec)
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(float("nan"))
    card = evaluate_card(model, VAE, data, held_out, SMALL, cache=cache)
    assert np.isfinite(card.headline)
    text = card.model_dump_json()
    assert "NaN" in text
    for again in (Card.model_validate_json(text), Card.model_validate(json.loads(text))):
        assert np.isnan(again.likelihood.bound_nats)


def test_pictures_depend_on_seed_and_number_alone():
    latents = latents_for(1, range(10), 6)
    torch.testing.assert_close(latents[4:7], latents_for(1, range(4, 7), 6), rtol=0, atol=0)
    others = latents_for(2, range(10), 6)
    assert len(torch.unique(torch.cat([latents, others]), dim=0)) == 20


def test_the_model_comes_back_in_the_mode_it_was_in(sets, cache):
    data, held_out = sets
    model = served(GAN, data.spec).train()
    evaluate_card(model, GAN, data, held_out, SMALL, cache=cache)
    assert model.training


def test_labels_follow_the_data_or_come_in_turn():
    assert labels_like(np.array([2, 0, 2]), 3).tolist() == [2, 0, 2]
    assert labels_like(np.array([-1, -1, -1, -1]), 3).tolist() == [0, 1, 2, 0]
    assert labels_like(np.array([1, 2]), 0) is None


@pytest.mark.parametrize(
    ("samples", "expected", "split"), [(50, 50, "test"), (100_000, None, "train")]
)
def test_reference_and_floor_have_one_size_and_no_picture_in_common(sets, samples, expected, split):
    data, held_out = sets
    chosen = choose_yardstick(data, held_out, samples)
    expected = expected or data.num_samples // 2
    assert len(chosen.reference) == len(chosen.floor) == expected
    assert chosen.floor.split == split
    if split == "train":
        assert not set(chosen.reference.indices_n) & set(chosen.floor.indices_n)
    again = choose_yardstick(data, held_out, samples)
    np.testing.assert_array_equal(chosen.reference.indices_n, again.reference.indices_n)


def test_without_held_out_pictures_the_training_set_is_divided(sets):
    chosen = choose_yardstick(sets[0], None, 30)
    assert (len(chosen.floor), chosen.floor.split) == (30, "train")


def test_one_picture_cannot_be_measured_against(sets):
    with pytest.raises(UsageError, match="too few pictures"):
        choose_yardstick(sets[0], None, 1)


def test_an_extractor_is_named_once():
    with pytest.raises(ValidationError, match="each once"):
        EvaluationConfig(extractors=("pixel-pca64", "pixel-pca64"))


def test_the_cache_forgets_what_was_not_used_for_longest(tmp_path):
    cache = ArrayCache(tmp_path, limit_bytes=5_000)
    for number in range(5):
        cache.put(str(number), np.zeros(200))
    assert sum(file.stat().st_size for file in tmp_path.glob("*.bin")) <= 5_000
    assert ArrayCache(tmp_path).get("4") is not None
    assert ArrayCache(tmp_path).get("0") is None


def test_a_cache_that_cannot_be_written_still_works(tmp_path):
    (tmp_path / "file").write_text("")
    cache = ArrayCache(tmp_path / "file" / "folder")
    cache.put("key", np.arange(3))
    np.testing.assert_array_equal(cache.get("key"), np.arange(3))
