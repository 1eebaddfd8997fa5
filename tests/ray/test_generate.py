"""Shard sets of generated pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ray
import typer
from ray.util.placement_group import placement_group, remove_placement_group
from typer.testing import CliRunner

from distgen.cli import generate as cli
from distgen.core.errors import DistgenError, UsageError
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location, locate
from distgen.data import Stream, open_shard_set, read_samples
from distgen.data.building.pack import SetWriter
from distgen.generate import batch
from distgen.generate.batch import generate
from distgen.launch import places
from distgen.registry.bundle import load_bundle
from distgen.serving.making.engine import network_of
from distgen.serving.making.sampler import Picture, Sampler, picture_seed
from tests.ray.bundles import untrained

CLASSES = ("circle", "square", "star")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Location:
    spec = ImageSpec(height=16, width=16, mode="RGB", classes=CLASSES)
    return untrained(tmp_path_factory.mktemp("model") / "bundle", spec, "shapes")


def write_other_set(folder: Path) -> None:
    """One sample in each of two shards."""
    image = ImageSpec(height=8, width=8, mode="L")
    with SetWriter(locate(folder), name="other", image=image, fields=("png",)) as writer:
        for key in ("a", "b"):
            writer.add(key, {"png": b"bytes"})
            writer.next_shard()
        writer.commit()


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_same_set_however_many_workers_and_it_trains_again(ray_cluster, bundle, tmp_path):
    write_other_set(tmp_path / "2")
    for workers in (1, 2):
        place = str(tmp_path / str(workers))
        generate(bundle, place, 700, seed=5, workers=workers, overwrite=workers == 2)
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


def test_generate_command_makes_chosen_classes_and_says_where(ray_cluster, bundle, tmp_path):
    place = tmp_path / "a [red] set"
    arguments = [bundle.url, "--count", "10", "--out", str(place), "--class", "star"]
    app = typer.Typer()
    app.command()(cli.generate)
    result = CliRunner().invoke(app, [*arguments, "--class", "circle", "--workers", "1"])
    assert f"10 pictures: {place}\n" in result.output
    _, labels = read_samples(open_shard_set(str(place)), np.arange(10))
    assert labels.tolist() == [2, 0] * 5


def test_bad_requests_name_the_thing_and_write_nothing(ray_cluster, bundle, tmp_path):
    place = tmp_path / "set"
    with pytest.raises(UsageError, match="no class 'start'"):
        generate(bundle, str(place), 10, classes=["start"])
    with pytest.raises(UsageError, match="9 GPUs fits"):
        generate(bundle, str(place), 10, gpus_per_worker=9)
    assert not place.exists()
    write_other_set(place)
    with pytest.raises(UsageError, match="already"):
        generate(bundle, str(place), 3)
    before = files(place)
    with pytest.raises(UsageError, match="9 GPUs fits"):
        generate(bundle, str(place), 10, gpus_per_worker=9, overwrite=True)
    assert files(place) == before


def test_what_is_cut_short_leaves_the_set_that_was_there(ray_cluster, bundle, tmp_path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    place = tmp_path / "set"
    write_other_set(place)
    before = files(place)
    with pytest.raises(KeyboardInterrupt):
        generate(bundle, str(place), 300, workers=1, overwrite=True, on_progress=interrupt)
    assert files(place) == before


def test_what_is_cut_short_goes_on_from_its_last_shard(ray_cluster, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "SHARD_SAMPLES", 300)
    told: list[int] = []

    def cut_short(done: int, total: int) -> None:
        if done > 700:
            raise KeyboardInterrupt

    generate(bundle, str(tmp_path / "whole"), 1000, seed=5, workers=2)
    place = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        generate(bundle, str(place), 1000, seed=5, workers=1, on_progress=cut_short)
    assert not (place / "manifest.json").exists()
    first = (place / "shard-000000.tar").stat().st_mtime_ns
    generate(bundle, str(place), 1000, seed=5, workers=2, on_progress=lambda n, _: told.append(n))
    assert told[0] == 600
    assert (place / "shard-000000.tar").stat().st_mtime_ns == first
    assert files(place) == files(tmp_path / "whole")

    other = tmp_path / "other"
    with pytest.raises(KeyboardInterrupt):
        generate(bundle, str(other), 1000, seed=6, workers=1, on_progress=cut_short)
    generate(bundle, str(other), 1000, seed=5, workers=1)  # another seed: nothing of it is taken
    assert files(other) == files(tmp_path / "whole")


def test_a_busy_cluster_is_said_to_be_so(ray_cluster, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "BUSY_TIMEOUT_S", 0.2)
    everything = placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    assert everything.wait(30)
    try:
        with pytest.raises(DistgenError, match="no place for a process"):
            generate(bundle, str(tmp_path / "set"), 3)
    finally:
        remove_placement_group(everything)
    assert not (tmp_path / "set").exists()
