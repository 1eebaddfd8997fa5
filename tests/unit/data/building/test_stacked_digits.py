"""`stacked-digits`: a thousand classes in equal parts, held-out digits apart, always the same."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from distgen.data import open_shard_set, read_samples
from distgen.data.building import build
from distgen.data.building.sources import open_source, split_of, stacked
from distgen.data.building.sources.builtin import DigitsSource
from distgen.data.building.sources.item import Item
from distgen.data.building.sources.stacked import StackedDigitsSource

# Recorded when the set was made; another value is another set under the same name.
FIRST_THOUSAND_SHA256 = "4f0088ea34926424344a1fd40124953207df6dc806565972eefc36c287d3a49d"


@pytest.fixture(scope="module")
def source() -> StackedDigitsSource:
    return open_source("stacked-digits")


def test_there_are_as_many_as_the_literature_has_and_more_than_it_samples(source):
    assert [len(source.items(split)) for split in ("train", "test")] == [60_000, 10_000]


@pytest.mark.parametrize(("split", "each"), [("train", 6), ("test", 4)])
def test_every_class_comes_equally_often_and_no_stack_twice(source, split, each, monkeypatch):
    monkeypatch.setattr(stacked, "STACKS", {split: 1000 * each})
    items = list(source.items(split))
    assert np.bincount([item.label for item in items]).tolist() == [each] * 1000
    assert len({item.content.tobytes() for item in items}) == len(items)
    assert len({item.key for item in items}) == len(items)


def test_a_stack_is_the_digits_of_its_number(source):
    digits = {}
    for item in DigitsSource().items(None):
        digits.setdefault(item.content.tobytes(), set()).add(item.label)
    for item in source.items("train")[:200]:
        assert item.content.shape == (8, 8, 3)
        for channel, figure in enumerate(source.classes[item.label]):
            assert int(figure) in digits[item.content[:, :, channel].tobytes()]


def test_held_out_stacks_are_of_held_out_digits(source):
    share = DigitsSource.default_split
    train = {
        item.content.tobytes()
        for item in DigitsSource().items(None)
        if split_of(item, share) == "train"
    }
    for split, expected in (("train", True), ("test", False)):
        for item in source.items(split)[:300]:
            found = {item.content[:, :, c].tobytes() in train for c in range(3)}
            assert found == {expected}


def test_neighbours_in_the_order_are_of_different_classes(source):
    labels = np.array([item.label for item in source.items("train")[:5000]])
    assert (np.diff(labels) == 0).mean() < 0.01


def test_the_set_never_changes(source):
    digest = hashlib.sha256()
    for split in ("train", "test"):
        for item in source.items(split)[:1000]:
            digest.update(f"{item.key} {item.label}".encode() + item.content.tobytes())
    assert digest.hexdigest() == FIRST_THOUSAND_SHA256


def test_it_is_built_like_any_other_set(tmp_path, monkeypatch):
    monkeypatch.setattr(stacked, "STACKS", {"train": 2_000, "test": 1_000})
    built = build("stacked-digits", str(tmp_path / "set"), workers=1)
    assert built.num_samples == 3_000
    assert (built.rejected, built.duplicates) == (0, 0)
    data = open_shard_set(str(tmp_path / "set"), "train")
    assert (data.spec.height, data.spec.width, data.spec.mode) == (16, 16, "RGB")
    assert data.spec.classes[42] == "042"
    images, labels = read_samples(data, np.arange(50))
    assert images.shape == (50, 16, 16, 3)
    assert labels.min() >= 0


def test_other_splits_do_not_exist(source):
    with pytest.raises(ValueError, match="no split"):
        source.items("val")


def test_only_pictures_in_memory_can_be_stacked(tmp_path):
    class Files(DigitsSource):
        def items(self, _split):
            return [Item(f"{n}", f"{n}", n % 10, tmp_path / "a.png") for n in range(400)]

    with pytest.raises(TypeError, match="in memory"):
        StackedDigitsSource(Files()).items("train")
