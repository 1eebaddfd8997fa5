"""Shard sets of generated pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location, locate
from distgen.data import Stream, open_shard_set, read_samples
from distgen.generate.batch import generate
from distgen.models import GANConfig, build_networks
from distgen.registry.bundle import load_bundle, write_bundle
from distgen.serving.engine import network_of
from distgen.serving.sampler import Picture, Sampler, picture_seed

CLASSES = ("circle", "square", "star")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Location:
    location = locate(tmp_path_factory.mktemp("model") / "bundle")
    spec = ImageSpec(height=16, width=16, mode="RGB", classes=CLASSES)
    config = GANConfig(latent_dim=16, width=16, conditional=True)
    torch.manual_seed(0)
    write_bundle(
        location,
        model_config=config,
        spec=spec,
        state=build_networks(config, spec)["generator"].state_dict(),
        card=None,
        samples_png=None,
        name="shapes",
        images_seen=0,
    )
    return location


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_same_set_however_many_workers_and_it_trains_again(ray_cluster, bundle, tmp_path):
    for workers in (1, 2):
        generate(bundle, str(tmp_path / str(workers)), 700, seed=5, workers=workers)
    assert files(tmp_path / "1") == files(tmp_path / "2")

    shard_set = open_shard_set(str(tmp_path / "2"))
    assert shard_set.num_samples == 700
    assert shard_set.spec.classes == CLASSES
    loaded = load_bundle(bundle)
    chosen = [0, 1, 255, 256, 699]
    images, labels = read_samples(shard_set, np.array(chosen))
    pictures = [Picture(picture_seed(5, i), i % 3) for i in chosen]
    np.testing.assert_array_equal(labels, [picture.label for picture in pictures])
    expected = Sampler(network_of(loaded), loaded.spec).sample(pictures)
    np.testing.assert_array_equal(images, expected)
    with Stream(shard_set, batch_size=64, epochs=1, lanes=4) as stream:
        batch = next(iter(stream))
    assert batch.images_nhwc.shape == (64, 16, 16, 3)


def test_chosen_classes_take_turns(ray_cluster, bundle, tmp_path):
    generate(bundle, str(tmp_path / "set"), 10, classes=["star", "circle"], workers=1)
    _, labels = read_samples(open_shard_set(str(tmp_path / "set")), np.arange(10))
    assert labels.tolist() == [2, 0] * 5


def test_bad_requests_name_the_thing_and_write_nothing(ray_cluster, bundle, tmp_path):
    place = tmp_path / "set"
    with pytest.raises(UsageError, match="no class 'start'") as error:
        generate(bundle, str(place), 10, classes=["start"])
    assert "did you mean 'star'" in str(error.value)
    with pytest.raises(UsageError, match="count cannot be 0"):
        generate(bundle, str(place), 0)
    assert not place.exists()
    generate(bundle, str(place), 3, workers=1)
    with pytest.raises(UsageError, match="already"):
        generate(bundle, str(place), 3)


def test_what_is_cut_short_is_no_shard_set(ray_cluster, bundle, tmp_path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(bundle, str(tmp_path / "set"), 2000, workers=1, on_progress=interrupt)
    with pytest.raises(UsageError):
        open_shard_set(str(tmp_path / "set"))
