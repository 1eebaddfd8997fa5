from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from distgen.core.config import parse
from distgen.data import open_shard_set
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder, prepare

MODELS: dict[str, dict[str, Any]] = {
    "gan": {"family": "gan", "latent_dim": 8, "width": 8, "conditional": True},
    "vae": {"family": "vae", "latent_dim": 4, "width": 8},
    "hvae": {"family": "hvae", "latent_dim": 4, "width": 8, "hidden": 8},
    "rvae": {"family": "rvae", "latent_dim": 4, "width": 8},
}


@pytest.fixture
def make_job(digits: str, tmp_path) -> Callable[..., TrainJob]:
    """Makes small jobs: `make_job("gan", name=..., images=...)`."""

    def make(family: str, name: str = "small", **training: Any) -> TrainJob:
        raw = {
            "name": name,
            "storage": str(tmp_path / "runs"),
            "data": {"shards": digits, "lanes": 4, "shuffle_window": 256},
            "model": MODELS[family],
            "training": {
                "images": 320,
                "batch_size": 32,
                "checkpoint_every": 96,
                "evaluate_every": 1_000_000,
                "log_every": 32,
                **training,
            },
            "evaluation": {
                "samples": 64,
                "extractors": ["pixel-pca64"],
                "importance_samples": 2,
                "likelihood_images": 16,
            },
        }
        return parse(TrainJob, raw, "test")

    return make


@pytest.fixture
def start(digits: str) -> Callable[[TrainJob], RunFolder]:
    """Prepares a job's run folder."""
    fingerprint = open_shard_set(digits, "train").fingerprint
    return lambda job: prepare(job, fingerprint)
