"""One Ray cluster for all of these tests, and jobs that are small enough for it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distgen.core.config import parse, set_dotted
from distgen.launch import cluster
from distgen.launch.cluster import Connection, connect
from distgen.launch.state import ClusterState
from distgen.training import checkpoint
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder

MODELS: dict[str, dict[str, Any]] = {
    "gan": {"family": "gan", "latent_dim": 8, "width": 8, "conditional": True},
    "vae": {"family": "vae", "latent_dim": 4, "width": 8},
    "rvae": {"family": "rvae", "latent_dim": 4, "width": 8},
}

MakeJob = Callable[..., TrainJob]


@pytest.fixture(scope="session", autouse=True)
def own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A token and a state folder of these tests' own; nothing of the user's is touched."""
    folder = tmp_path_factory.mktemp("surroundings")
    token = folder / "auth_token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="session")
def ray_cluster(own_surroundings: Path) -> Iterator[Connection]:
    """A cluster on this machine that all tests share."""
    os.environ.pop("RAY_AUTH_MODE", None)
    with connect() as connection:
        yield connection


@pytest.fixture
def two_nodes(own_surroundings: Path) -> Iterator[ClusterState]:
    """A cluster of two node processes with one core each, for one test that may end them."""
    state = cluster.up(2, cpus_per_node=1)
    try:
        yield state
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def nodes(own_surroundings: Path) -> Iterator[ClusterState]:
    """A cluster of two node processes."""
    state = cluster.up(2, cpus_per_node=1)
    try:
        yield state
    finally:
        cluster.down()


@pytest.fixture(scope="session")
def make_job(digits: str, tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    """A train job of a few seconds; keyword arguments are dotted keys with `__` for the dot.

    Every job has a storage of its own unless it is given one.
    """

    def make(family: str = "vae", **changes: Any) -> TrainJob:
        storage = changes.pop("storage", None) or str(tmp_path_factory.mktemp("runs"))
        return tiny_job(family, digits, storage, **changes)

    return make


def tiny_job(family: str, shards: str, storage: str, **changes: Any) -> TrainJob:
    """A train job of a few seconds; keyword arguments are dotted keys with `__` for the dot."""
    raw: dict[str, Any] = {
        "name": f"tiny-{family}",
        "storage": storage,
        "data": {"shards": shards, "lanes": 8, "shuffle_window": 64},
        "model": MODELS[family],
        "training": {
            "images": 960,
            "batch_size": 16,
            "ema_half_life": 100,
            "checkpoint_every": 160,
            "evaluate_every": 100_000,
            "log_every": 16,
        },
        # Half a core each: the tests need no more than one.
        "scaling": {"workers": 2, "cpus_per_worker": 0.5},
        "evaluation": {
            "samples": 100,
            "extractors": ["pixel-pca64"],
            "importance_samples": 2,
            "likelihood_images": 16,
        },
    }
    for key, value in changes.items():
        set_dotted(raw, key.replace("__", "."), value)
    return parse(TrainJob, raw, "a test")


def weights(job: TrainJob) -> dict[str, bytes]:
    """Every file of the run's newest checkpoint: networks, optimisers, average."""
    newest = checkpoint.complete(RunFolder(job.location).checkpoints)[-1]
    assert int(newest.name) == job.training.images
    return {file.name: file.read_bytes() for file in newest.list()}


def losses(job: TrainJob) -> list[tuple[int, dict[str, float]]]:
    """The run's curves: images seen and losses of every point."""
    rows = RunFolder(job.location).metrics()
    return [(row["images_seen"], row["losses"]) for row in rows if row["stage"] == "train"]
