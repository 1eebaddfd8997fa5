"""Modes: a perfect sampler is at the floor, and what is missing is counted as missing."""

from __future__ import annotations

import numpy as np
import pytest

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.data import open_shard_set
from distgen.data.building import build
from distgen.metrics import modes
from distgen.metrics.cache import ArrayCache
from distgen.metrics.modes import (
    Alphabet,
    ModesConfig,
    divergence,
    measure,
    natural,
    perfect_sampler,
    refuse_unfit,
)
from tests.unit.metrics.conftest import Told
from tests.unit.metrics.small_sets import write_set

THOUSAND = tuple(f"{number:03d}" for number in range(1000))


def spec(classes: tuple[str, ...], mode: str = "RGB") -> ImageSpec:
    return ImageSpec(height=8, width=8, mode=mode, classes=classes)


def test_a_perfect_sampler_of_a_thousand_modes_is_at_the_known_floor():
    found, divergent = perfect_sampler(np.full(1000, 0.001), 26_000)
    assert found == pytest.approx(1000)
    assert divergent == pytest.approx(999 / 52_000, rel=0.02)  # 0.019


def test_a_perfect_sampler_misses_modes_where_samples_are_few():
    found, _ = perfect_sampler(np.full(100, 0.01), 100)
    assert found == pytest.approx(100 * (1 - 0.99**100), rel=0.02)


def test_the_divergence_of_a_half_that_is_missing_is_the_logarithm_of_two():
    assert divergence(np.array([5, 5, 0, 0]), np.full(4, 0.25)) == pytest.approx(np.log(2))
    assert divergence(np.array([1, 3]), np.array([0.25, 0.75])) == pytest.approx(0, abs=1e-12)
    assert divergence(np.array([1, 1]), np.array([1.0, 0.0])) == np.inf


def test_channels_spell_classes_and_other_words_are_of_none():
    alphabet = Alphabet.of(spec(THOUSAND), "channel")
    assert alphabet.symbols == 10
    assert alphabet.classes_of(np.array([[0, 4, 2], [9, 9, 9]])).tolist() == [42, 999]
    few = Alphabet.of(spec(("aab", "bbb")), "channel")
    assert few.classes_of(np.array([[0, 0, 1], [1, 1, 1], [0, 0, 0]])).tolist() == [0, 1, -1]
    whole = Alphabet.of(spec(("cat", "dog")), "picture")
    assert whole.classes_of(np.array([[1], [0]])).tolist() == [1, 0]


def test_channels_are_counted_where_classes_are_all_words_of_them():
    assert natural(spec(THOUSAND)) == "channel"
    assert natural(spec(("cat", "dog", "cow"))) == "picture"
    assert natural(spec(tuple("0123456789"), "L")) == "picture"


def test_sets_that_cannot_be_counted_are_refused():
    with pytest.raises(UsageError, match="has none"):
        refuse_unfit(ModesConfig(), spec(()))
    with pytest.raises(UsageError, match="one letter for each channel"):
        refuse_unfit(ModesConfig(by="channel"), spec(("shoe", "bag")))
    refuse_unfit(ModesConfig(by="channel"), spec(THOUSAND))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Stacks of bars: `a` is on the left of a channel, `b` in the middle, `c` on the right."""
    random = np.random.default_rng(0)
    classes = tuple(x + y + z for x in "abc" for y in "abc" for z in "abc")
    sets = {}
    for split, count in (("train", 540), ("test", 270)):
        labels = np.resize(np.arange(27), count)
        images = random.integers(0, 60, (count, 9, 9, 3), dtype=np.uint8)
        for number, label in enumerate(labels):
            for channel, letter in enumerate(classes[label]):
                place = 3 * "abc".index(letter)
                images[number, :, place : place + 3, channel] += 150
        folder = tmp_path_factory.mktemp("shapes") / split
        sets[split] = (write_set(folder, images, labels, classes, split), images, labels)
    return sets


@pytest.fixture(autouse=True)
def short_lessons(monkeypatch):
    monkeypatch.setattr(modes, "LESSON_IMAGES", 4_000)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return ArrayCache(tmp_path_factory.mktemp("cache"))


def test_a_sampler_of_real_pictures_reaches_every_mode(shapes, subject, cache):
    data, images, _ = shapes["train"]
    found = measure(
        subject(Told(images), data, shapes["test"][0], cache),
        ModesConfig(samples=700, by="channel"),
    )
    assert (found.modes, found.classes, found.unknown) == (27, 27, 0)
    assert found.classifier_accuracy > 0.99
    assert found.classifier_pictures == 270 * 3
    assert found.floor_kl_nats == pytest.approx(26 / 1400, rel=0.2)
    assert found.kl_nats == pytest.approx(found.floor_kl_nats, abs=0.02)


def test_modes_that_are_never_made_are_missing(shapes, subject, cache):
    data, images, labels = shapes["train"]
    few = images[labels < 9]  # those that begin with `a`
    found = measure(
        subject(Told(few), data, shapes["test"][0], cache), ModesConfig(samples=700, by="channel")
    )
    assert found.modes == 9
    assert found.kl_nats == pytest.approx(np.log(3), abs=0.05)


def test_without_held_out_pictures_some_training_pictures_test_the_classifier(shapes, subject):
    data, images, _ = shapes["train"]
    found = measure(subject(Told(images), data, None), ModesConfig(samples=100, by="channel"))
    assert found.classifier_pictures == 540 * 3 // 5
    assert found.classifier_accuracy > 0.99


def test_held_out_pictures_without_classes_test_no_classifier(shapes, subject, tmp_path):
    data, images, _ = shapes["train"]
    nameless = write_set(tmp_path / "nameless", images[:27], None, data.spec.classes, "test")
    found = measure(subject(Told(images), data, nameless), ModesConfig(samples=100, by="channel"))
    assert found.classifier_pictures == 540 * 3 // 5
    assert found.classifier_accuracy > 0.99


def test_a_set_that_lies_class_by_class_is_asked_for_all_its_classes(shapes, subject, tmp_path):
    data, images, labels = shapes["train"]
    order = np.argsort(labels, kind="stable")
    classes = data.spec.classes
    lying = write_set(tmp_path / "lying", images[order], labels[order], classes, "train")
    model = Told(images[order], labels[order])
    found = measure(subject(model, lying, None), ModesConfig(samples=270, by="channel"))
    assert found.modes == 27
    assert found.kl_nats == pytest.approx(found.floor_kl_nats, abs=0.05)


def test_whole_pictures_are_counted_by_their_classes(digits, subject):
    data, held_out = open_shard_set(digits, "train"), open_shard_set(digits, "test")
    from distgen.data import read_samples

    images = read_samples(data, np.arange(data.num_samples))[0]
    found = measure(subject(Told(images[:300]), data, held_out), ModesConfig(samples=200))
    assert (found.modes, found.classes) == (10, 10)
    assert found.classifier_accuracy > 0.9
    assert found.figures()["modes"] == 10


@pytest.mark.slow
def test_the_classifier_of_stacked_digits_knows_digits(tmp_path, subject, monkeypatch):
    monkeypatch.undo()
    build("stacked-digits", str(tmp_path / "set"), workers=1)
    data, held_out = (open_shard_set(str(tmp_path / "set"), part) for part in ("train", "test"))
    from distgen.data import read_samples

    images = read_samples(data, np.arange(0, data.num_samples, 6))[0]
    found = measure(subject(Told(images), data, held_out), ModesConfig(samples=2_000, by="channel"))
    assert found.classifier_accuracy >= 0.985
    assert found.kl_nats == pytest.approx(found.floor_kl_nats, rel=0.2)
