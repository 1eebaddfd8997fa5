"""Figures that are measured on request: alike on any number of ranks, and refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.core.world import World
from distgen.data import open_shard_set
from distgen.metrics import modes, neighbours
from distgen.metrics.cache import ArrayCache
from distgen.metrics.card import Card, evaluate_card
from distgen.metrics.classification import ClassificationConfig
from distgen.metrics.further import SECTIONS
from distgen.metrics.memorisation import MemorisationConfig
from distgen.metrics.modes import ModesConfig
from distgen.metrics.request import EvaluationConfig, everything, refuse_unfit
from distgen.models import GANConfig, VAEConfig, build_networks
from tests.unit.metrics.ranks_in_threads import on_ranks

GAN = GANConfig(latent_dim=8, width=8, conditional=True)
VAE = VAEConfig(latent_dim=4, width=8)
FULL = EvaluationConfig(
    samples=150,
    extractors=("pixel-pca64",),
    neighbours=3,
    modes=ModesConfig(samples=200),
    memorisation=MemorisationConfig(),
    classification=ClassificationConfig(samples=300, images=600),
)
WORDS = ImageSpec(height=16, width=16, mode="L", classes=("cat", "dog"))
DIGITS = ImageSpec(height=16, width=16, mode="L", classes=tuple("0123456789"))


@pytest.fixture(autouse=True)
def short_lessons(monkeypatch):
    monkeypatch.setattr(modes, "LESSON_IMAGES", 600)
    monkeypatch.setattr(neighbours, "PART", 256)


@pytest.fixture
def sets(digits):
    return open_shard_set(digits, "train"), open_shard_set(digits, "test")


def generator(config, spec):
    torch.manual_seed(0)
    return build_networks(config, spec)["generator"].eval()


def numbers(card: Card) -> list[float]:
    floors = [f for e in card.extractors for f in e.floor.model_dump().values()]
    return [*card.figures().values(), *floors]


@pytest.mark.parametrize("size", [2, 3])
def test_many_ranks_measure_what_one_measures(size, sets, tmp_path):
    data, held_out = sets
    model = generator(GAN, data.spec)
    sheets = []
    alone = evaluate_card(
        model, GAN, data, held_out, FULL, cache=ArrayCache(tmp_path / "one"), on_sheet=sheets.append
    )

    def evaluate(world: World, gather) -> Card:
        cache = ArrayCache(tmp_path / f"rank-{world.rank}")
        options = {"world": world, "gather": gather, "cache": cache, "on_sheet": sheets.append}
        return evaluate_card(model, GAN, data, held_out, FULL, **options)

    cards = on_ranks(size, evaluate)
    assert all(card == cards[0] for card in cards)
    np.testing.assert_allclose(numbers(cards[0]), numbers(alone), rtol=1e-6, atol=1e-6)
    assert cards[0].modes == alone.modes
    assert len(sheets) == 2
    assert sheets[0] == sheets[1]


def test_a_card_with_everything_comes_back(sets, tmp_path):
    data, held_out = sets
    model = generator(GAN, data.spec)
    card = evaluate_card(model, GAN, data, held_out, FULL, cache=ArrayCache(tmp_path))
    assert None not in (card.modes, card.memorisation, card.classification)
    again = Card.model_validate_json(card.model_dump_json())
    assert again == card
    figures = card.figures()
    for name in ("modes", "modes_kl", "close_share", "copies", "classification_accuracy"):
        assert name in figures
    assert figures["kernel_distance/pixel-pca64"] > figures["kernel_floor/pixel-pca64"]
    # The second time nothing real is looked at again, and nothing is learnt again.
    second = evaluate_card(model, GAN, data, held_out, FULL, cache=ArrayCache(tmp_path))
    np.testing.assert_array_equal(numbers(second), numbers(card))


def test_classes_are_measured_where_they_have_pictures_enough(sets, tmp_path):
    data, held_out = sets
    config = EvaluationConfig(samples=5_000, extractors=("pixel-pca64",))
    model = generator(GAN, data.spec)
    card = evaluate_card(model, GAN, data, held_out, config, cache=ArrayCache(tmp_path))
    classes = card.extractors[0].per_class
    assert len(classes.classes) + classes.too_few == 10
    assert len(classes.classes) > 5  # 76 pictures of each, for 64 dimensions
    for each in classes.classes:
        assert each.frechet_distance > 2 * each.floor > 0
    few = EvaluationConfig(samples=150, extractors=("pixel-pca64",))
    card = evaluate_card(model, GAN, data, held_out, few, cache=ArrayCache(tmp_path))
    assert card.extractors[0].per_class.frechet_distance is None
    assert card.extractors[0].per_class.too_few == 10
    assert "class_distance/pixel-pca64" not in card.figures()


def test_cards_of_before_still_load(sets, tmp_path):
    data, held_out = sets
    model = generator(GAN, data.spec)
    card = evaluate_card(model, GAN, data, held_out, FULL, cache=ArrayCache(tmp_path))
    old = card.model_dump(mode="json", exclude=set(SECTIONS))
    for scores in old["extractors"]:
        del scores["kernel"], scores["per_class"]
    loaded = Card.model_validate(old)
    assert loaded.headline == card.headline
    assert "kernel_distance/pixel-pca64" not in loaded.figures()


def test_between_two_cards_of_a_run_nothing_takes_minutes():
    between = FULL.between
    assert all(getattr(between, name) is None for name in SECTIONS)
    assert between.samples == FULL.samples


def test_everything_is_what_fits():
    plain = EvaluationConfig()
    full = everything(plain, GAN, DIGITS, held_out=True)
    assert full.modes == ModesConfig(by="picture")
    assert full.memorisation == MemorisationConfig()
    assert full.classification == ClassificationConfig()
    assert everything(plain, GAN, DIGITS, held_out=False).classification is None
    assert everything(plain, VAE, DIGITS, held_out=True).classification is None
    assert everything(FULL, GAN, DIGITS, held_out=True) == FULL
    other = EvaluationConfig(extractors=("efficientnet-lite0",))
    assert (
        everything(other, VAE, DIGITS, held_out=True).memorisation.extractor == other.extractors[0]
    )
    unlabelled = DIGITS.model_copy(update={"classes": ()})
    assert everything(plain, VAE, unlabelled, held_out=True).modes is None
    clips = DIGITS.model_copy(update={"frames": 4})
    assert everything(plain, VAE, clips, held_out=True) == plain


def test_what_does_not_fit_is_refused_by_name(monkeypatch):
    monkeypatch.delenv("DISTGEN_INCEPTION_WEIGHTS", raising=False)
    learnt = EvaluationConfig(classification=ClassificationConfig())
    with pytest.raises(UsageError, match=r"evaluation\.classification"):
        refuse_unfit(learnt, VAE, DIGITS, held_out=True)
    with pytest.raises(UsageError, match=r"evaluation\.modes"):
        refuse_unfit(EvaluationConfig(modes=ModesConfig(by="channel")), GAN, WORDS, held_out=True)
    clips = DIGITS.model_copy(update={"frames": 4})
    with pytest.raises(UsageError, match="clips"):
        refuse_unfit(FULL, GAN, clips, held_out=True)
    usual = EvaluationConfig(extractors=("inception-v3",))
    with pytest.raises(UsageError, match="weights"):
        refuse_unfit(usual, GAN, DIGITS, held_out=True)
    refuse_unfit(FULL, GAN, DIGITS, held_out=True)


def test_memories_are_measured_where_features_are():
    with pytest.raises(ValidationError, match="not among"):
        EvaluationConfig(extractors=("efficientnet-lite0",), memorisation=MemorisationConfig())
