"""A run outlives the head of its cluster, whose state a Redis keeps."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distgen.core.ports import free_port
from tests.faults import Survived
from tests.hosts.cluster import Cluster, wait_until
from tests.hosts.network import Network
from tests.hosts.test_faults import Add, Tried
from tests.stores.server import end_with_parent, serving

pytestmark = pytest.mark.faults


@contextmanager
def redis_at(host: str, folder: Path) -> Iterator[str]:
    """Debian's Redis, and its address."""
    tool = shutil.which("redis-server")
    if tool is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    port = free_port(host)
    keeps_nothing = ["--save", "", "--appendonly", "no", "--protected-mode", "no"]
    command = [tool, "--bind", host, "--port", str(port), "--dir", str(folder), *keeps_nothing]
    with (folder / "redis.log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, preexec_fn=end_with_parent
        )
    try:
        yield f"{host}:{port}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def headed(digits: str) -> Iterator[Cluster]:
    """Three hosts, the head without work and with its state in a Redis."""
    with (
        Network(3) as network,
        serving(network.address) as store,
        redis_at(network.address, network.folder) as redis,
    ):
        cluster = Cluster(network, store, (0, 1, 1), redis)
        cluster.start()
        store.upload(Path(digits), "digits")
        yield cluster


def test_the_head_is_killed_and_started_again(
    headed: Cluster, undisturbed: dict[str, bytes], survived: Add
) -> None:
    tried = Tried("head killed and started again", headed, undisturbed, headed.others[0])
    tried.until_the_middle()
    headed.head.kill()
    time.sleep(2)
    headed.start_node(headed.head)
    wait_until(lambda: len(headed.alive()) == 3, "the head, and its nodes")
    row = tried.finish()
    survived(Survived(tried.fault, row.weights_equal, row.images_lost), tried.every)
    assert len(tried.run.events("workers running")) == 1, "the ranks went on by themselves"
