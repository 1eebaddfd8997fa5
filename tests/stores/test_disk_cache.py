"""What the disk keeps of a set in a store is not asked for again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distgen.core.config import parse
from distgen.core.world import World
from distgen.data import Stream, open_shard_set
from distgen.data.keeping import page_folder
from distgen.data.streaming import pages
from distgen.training.job import TrainJob
from distgen.training.local import train_here
from tests.stores.proxy import FaultProxy
from tests.stores.server import Store
from tests.unit.data.conftest import Made

Upload = Callable[[str], tuple[Made, str]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pages, and room on whatever disk the tests run on."""
    monkeypatch.setattr(pages, "PAGE_BYTES", 4096)
    monkeypatch.setattr(page_folder, "KEEP_FREE_BYTES", 0)


def of_tars(proxy: FaultProxy) -> list[str]:
    return [f"{r.path} {r.range}" for r in proxy.requests if ".tar" in r.path and r.method == "GET"]


def test_every_byte_is_asked_for_once_by_all_ranks_in_all_epochs_and_runs(
    uploaded: Upload, proxy: FaultProxy, tmp_path: Path
) -> None:
    made, url = uploaded("kept")
    options: dict[str, Any] = {"cache": "disk", "cache_dir": str(tmp_path), "shuffle_window": 20}
    for seed in (0, 1):
        ranks = [
            Stream(open_shard_set(url), batch_size=10, world=World(rank, 3), seed=seed, **options)
            for rank in range(3)  # lanes are 64, so that ranks read the same pages
        ]
        for _ in range(20):
            for batch in map(next, ranks):
                assert np.array_equal(batch.images_nhwc, made.images_nhwc[batch.indices_n])
        for stream in ranks:
            stream.close()
        if seed == 0:
            asked = of_tars(proxy)
            assert len(asked) == len(set(asked)) > 20
            proxy.requests.clear()
    # A later run asks for the manifest and the index, and for no picture.
    assert of_tars(proxy) == []
    assert proxy.requests


def test_a_job_file_says_where_and_how_much(
    store: Store, digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 1 << 17)
    for split in ("train", "test"):
        store.upload(Path(digits, split), f"digits/{split}")
    raw = {
        "name": "kept",
        "storage": str(tmp_path / "runs"),
        "data": {
            "shards": store.url("digits"),
            "cache": "disk",
            "cache_dir": str(tmp_path / "cache"),
            "cache_disk_gib": 4 * 2**17 / 2**30,
        },
        "model": {"family": "vae", "latent_dim": 4, "width": 8},
        "training": {"images": 64, "batch_size": 32},
        "evaluation": {
            "samples": 64,
            "extractors": ["pixel-pca64"],
            "importance_samples": 1,
            "likelihood_images": 4,
        },
    }
    train_here(parse(TrainJob, raw, "test"))
    assert len(list((tmp_path / "cache").glob("pages/*/*/*"))) == 4
