"""What a classifier learns from generated pictures: all there is, or nothing, or half of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.data import open_shard_set, read_samples
from distgen.metrics.cache import ArrayCache
from distgen.metrics.classification import ClassificationConfig, measure, refuse_unfit
from distgen.metrics.classifier import (
    SIDE,
    Lesson,
    changed,
    recognise,
    shrink,
    taught,
    to_inputs,
    train,
)
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import any_labelled
from tests.unit.metrics.conftest import Told
from tests.unit.metrics.small_sets import write_set

CONFIG = ClassificationConfig(samples=1_000, images=4_000)
CPU = torch.device("cpu")


@pytest.fixture
def sets(digits):
    return open_shard_set(digits, "train"), open_shard_set(digits, "test")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Remembers the ceiling, which is the same in all tests."""
    return ArrayCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def pictures(sets):
    return read_samples(sets[0], np.arange(sets[0].num_samples))


def test_real_pictures_teach_as_much_as_real_pictures(sets, pictures, subject, cache):
    images, labels = pictures
    scores = measure(subject(Told(images, labels), *sets, cache), CONFIG)
    assert scores.ceiling > 0.9
    assert scores.accuracy == pytest.approx(scores.ceiling, abs=0.05)
    assert (scores.samples, scores.images, scores.test_pictures) == (1_000, 4_000, 264)
    assert len(scores.accuracy_by_class) == len(scores.ceiling_by_class) == 10
    assert scores.figures()["classification_accuracy"] == scores.accuracy


def test_pictures_of_the_wrong_classes_teach_nothing(sets, pictures, subject, cache):
    images, labels = pictures
    scores = measure(subject(Told(images, (labels + 1) % 10), *sets, cache), CONFIG)
    assert scores.accuracy < 0.1 < scores.ceiling


def test_classes_that_look_alike_are_not_told_apart(sets, pictures, subject, cache):
    images, labels = pictures
    muddled = images.copy()
    muddled[labels < 5] = images[labels == 0][0]
    scores = measure(subject(Told(muddled, labels), *sets, cache), CONFIG)
    assert np.mean(scores.accuracy_by_class[5:]) > 0.8
    assert np.mean(scores.accuracy_by_class[:5]) < 0.5


def test_held_out_pictures_without_classes_are_none_to_test_on(sets, pictures, subject, tmp_path):
    images, labels = pictures
    classes = sets[0].spec.classes
    nameless = write_set(tmp_path / "nameless", images[:20], None, classes, "test")
    assert any_labelled(sets[1])
    assert not any_labelled(nameless)
    assert not any_labelled(None)
    with pytest.raises(UsageError, match="class is known"):
        measure(subject(Told(images, labels), sets[0], nameless), CONFIG)


def test_models_and_sets_without_classes_or_test_split_are_refused():
    spec = ImageSpec(height=8, width=8, mode="L", classes=("a", "b"))
    with pytest.raises(UsageError, match="class-conditional"):
        refuse_unfit(spec, conditional=False, held_out=True)
    with pytest.raises(UsageError, match="held-out"):
        refuse_unfit(spec, conditional=True, held_out=False)
    refuse_unfit(spec, conditional=True, held_out=True)


def test_a_lesson_is_learnt_the_same_way_every_time(pictures):
    images, labels = pictures[0][:200], pictures[1][:200]
    lesson = Lesson("some digits", 1, 10, 500)
    states = []
    for _ in range(2):
        torch.rand(3)  # what others drew before does not matter
        before = torch.get_rng_state()
        states.append(train(lesson, images, labels, CPU).state_dict())
        assert torch.equal(before, torch.get_rng_state())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_a_lesson_that_is_remembered_is_not_learnt_again(pictures, tmp_path):
    lesson, calls = Lesson("some digits", 1, 10, 500), []

    def examples():
        calls.append(1)
        return pictures[0][:100], pictures[1][:100]

    told: list[str] = []
    ranks = Ranks(on_progress=told.append)
    options = {"of": "digits", "device": CPU, "ranks": ranks, "cache": ArrayCache(tmp_path)}
    first = taught(lesson, examples, **options)
    again = taught(lesson, examples, **{**options, "cache": ArrayCache(tmp_path)})
    assert len(calls) == 1
    assert told[0] == "classifier of digits 0/500"
    np.testing.assert_array_equal(recognise(first, pictures[0]), recognise(again, pictures[0]))


def test_lessons_differ_by_all_that_makes_them():
    lessons = [
        Lesson("a", 1, 10, 500),
        Lesson("b", 1, 10, 500),
        Lesson("a", 3, 10, 500),
        Lesson("a", 1, 9, 500),
        Lesson("a", 1, 10, 501),
    ]
    assert len({lesson.digest for lesson in lessons}) == len(lessons)


def test_large_pictures_are_seen_averaged():
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), dtype=np.uint8)
    seen = shrink(images)
    assert seen.shape == (3, SIDE, SIDE, 3)
    assert seen.dtype == np.uint8
    assert shrink(images[:, :20, :20]).shape == (3, 20, 20, 3)


def test_changes_leave_pictures_nearly_what_they_were():
    images = torch.zeros(16, 28, 28, 1, dtype=torch.uint8)
    images[:, 8:20, 12:16] = 255
    inputs = to_inputs(images)
    moved = changed(inputs, torch.Generator().manual_seed(0))
    assert moved.shape == inputs.shape
    assert not torch.equal(moved[0], moved[1])
    torch.testing.assert_close(moved.mean(), inputs.mean(), atol=0.03, rtol=0)
