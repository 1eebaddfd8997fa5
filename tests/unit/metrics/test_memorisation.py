"""Memorisation: planted copies are found, and real pictures are at the floor."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from distgen.core.world import World
from distgen.metrics import memorisation, neighbours
from distgen.metrics.cache import ArrayCache
from distgen.metrics.features import PixelPCA, fit_pixel_pca
from distgen.metrics.further import Kept
from distgen.metrics.generated import PictureMaker
from distgen.metrics.memorisation import MemorisationConfig
from distgen.metrics.neighbours import nearest
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import PictureSet, extract
from tests.unit.metrics.conftest import Told
from tests.unit.metrics.ranks_in_threads import on_ranks
from tests.unit.metrics.small_sets import write_set


def blobs(count: int, seed: int) -> np.ndarray:
    """Smooth grey pictures of 12x12, no two alike."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)
    smooth = coarse.repeat(3, axis=1).repeat(3, axis=2)
    return (smooth // 2 + random.integers(0, 20, smooth.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Training set, held-out set, their pictures, and a feature space."""
    folder = tmp_path_factory.mktemp("blobs")
    train, test = blobs(700, 0), blobs(200, 1)
    data = write_set(folder / "train", train, split="train")
    held_out = write_set(folder / "test", test, split="test")
    return data, held_out, train, fit_pixel_pca(train, "blobs")


def score(subject_of, world, made: np.ndarray, count: int = 300, held_out: bool = True):
    data, others, _, pca = world
    subject = subject_of(Told(made), data, others if held_out else None)
    maker = PictureMaker(subject.model, None, 0, subject.device)
    pictures = Kept(maker)
    features = extract(pictures, count, [pca], subject.ranks, "made")[pca.name]
    return memorisation.measure(subject, MemorisationConfig(), pca, features, maker, pictures)


def test_pictures_of_the_same_kind_are_at_the_floor(subject, world):
    scores = score(subject, world, blobs(500, 2)).scores
    assert scores.close_share < 0.1
    assert (scores.copies, scores.floor_copies, scores.identical) == (0, 0, 0)
    assert scores.median_distance == pytest.approx(scores.floor_median_distance, rel=0.05)
    assert (scores.samples, scores.floor_samples, scores.floor_split) == (300, 200, "test")
    assert scores.train_pictures == scores.train_total == 700


def test_planted_copies_are_found(subject, world):
    made = blobs(500, 2)
    made[::5] = world[2][:100]  # a fifth is copied
    made[1::5] = world[2][100:200] + 2  # a fifth differs from a training picture by two levels
    scores = score(subject, world, made).scores
    assert scores.copies / 300 == pytest.approx(0.4, abs=0.08)
    assert scores.identical / 300 == pytest.approx(0.2, abs=0.07)
    assert scores.close_share == pytest.approx(0.4, abs=0.08)
    assert scores.floor_copies == 0


def test_the_sheet_shows_the_closest_first_beside_their_nearest(subject, world):
    made = blobs(500, 2)
    made[100:110] = world[2][300:310]
    memories = score(subject, world, made)
    sheet = np.asarray(Image.open(io.BytesIO(memories.sheet_png)))
    scale = 5  # 12 pixels to at least 56
    cell = 12 * scale + 2
    assert sheet.shape == (16 * cell + 2, 6 * cell + 2)
    first, second = (sheet[2 : 2 + 60, 2 + k * cell : 2 + k * cell + 60] for k in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_without_held_out_pictures_training_pictures_are_compared_with_all_others(subject, world):
    scores = score(subject, world, blobs(500, 2), held_out=False).scores
    assert scores.floor_split == "train"
    assert scores.floor_median_distance > 0
    assert scores.floor_median_distance == pytest.approx(scores.median_distance, rel=0.1)


def searched(data, pca: PixelPCA, queries, k, tmp_path, own=None, size=1):
    training = PictureSet(data, np.arange(data.num_samples), "train")

    def call(world: World, gather):
        cache = ArrayCache(tmp_path / f"{size}-{world.rank}")
        return nearest(queries, training, pca, k, Ranks(world, gather), cache, own)

    return on_ranks(size, call)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_neighbours_are_those_of_scikit_learn_on_any_number_of_ranks(
    world, tmp_path, monkeypatch, size
):
    monkeypatch.setattr(neighbours, "PART", 128)
    monkeypatch.setattr(neighbours, "_ROWS", 50)
    data, _, train, pca = world
    queries = pca(blobs(130, 3))
    distances, places = NearestNeighbors(n_neighbors=4).fit(pca(train)).kneighbors(queries)
    for found in searched(data, pca, queries, 4, tmp_path, size=size):
        np.testing.assert_array_equal(found.places_nk, places)
        np.testing.assert_allclose(found.distances_nk, distances, rtol=1e-5)


def test_a_training_picture_is_no_neighbour_of_itself(world, tmp_path):
    data, _, train, pca = world
    own = np.arange(0, 700, 7)
    (found,) = searched(data, pca, pca(train[own]), 1, tmp_path, own=own)
    assert (found.places_nk[:, 0] != own).all()
    (itself,) = searched(data, pca, pca(train[own]), 1, tmp_path)
    np.testing.assert_array_equal(itself.places_nk[:, 0], own)
    np.testing.assert_allclose(itself.distances_nk, 0, atol=1e-5)


def test_features_of_training_pictures_are_computed_once(world, tmp_path):
    data, _, _, pca = world
    calls = []

    class Counting:
        name, digest, dimensions = pca.name, "counting", pca.dimensions

        def __call__(self, images_nhwc):
            calls.append(len(images_nhwc))
            return pca(images_nhwc)

    queries = pca(blobs(10, 3))
    first = searched(data, Counting(), queries, 2, tmp_path)[0]
    assert sum(calls) == 700
    again = searched(data, Counting(), queries, 2, tmp_path)[0]
    assert sum(calls) == 700
    np.testing.assert_array_equal(first.distances_nk, again.distances_nk)
