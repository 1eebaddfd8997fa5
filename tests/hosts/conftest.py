"""Hosts that tests share, and what is trained on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distgen.training.job import TrainJob
from distgen.training.run import open_pictures, prepare
from tests.hosts import network
from tests.hosts.cluster import Cluster, three_hosts
from tests.ray import plain_ranks
from tests.ray.conftest import tiny_job, weights

MakeJob = Callable[..., TrainJob]


@pytest.fixture(scope="session", autouse=True)
def possible() -> None:
    """Skips where a machine can have no hosts in it."""
    if why := network.missing():
        pytest.skip(why)


@pytest.fixture(scope="module")  # other tests have use for the machine afterwards
def hosts_cluster(digits: str) -> Iterator[Cluster]:
    """Three hosts with room for one rank on each."""
    with three_hosts() as cluster:
        cluster.store.upload(Path(digits), "digits")
        yield cluster


def job_for(cluster: Cluster, name: str, **changes: Any) -> TrainJob:
    """A run of two ranks that lies in the store, as do its pictures."""
    store = cluster.store
    return tiny_job("vae", store.url("digits"), store.url("runs"), name=name, **{**PACE, **changes})


PACE = {
    "training__images": 1920,
    "training__checkpoint_every": 480,
    "training__log_every": 48,
    "scaling__cpus_per_worker": 1,
}
"""Long enough for a fault in the middle, with points often enough to see it."""


@pytest.fixture(scope="session")
def undisturbed(digits: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The weights of a run that nothing happened to, by two ranks without Ray."""
    job = tiny_job("vae", digits, str(tmp_path_factory.mktemp("undisturbed")), **PACE)
    prepare(job, open_pictures(job).fingerprint)
    plain_ranks.run([job])
    return weights(job)
