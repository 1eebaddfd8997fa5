"""A Ray cluster whose nodes are hosts of their own, and the runs on it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from distgen.core.config import dump_yaml
from distgen.launch.nodes import _LOSS
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder
from tests.hosts.network import Host, Network
from tests.stores.server import Store, serving

PATIENCE_S = 600.0
"""That something which takes seconds on an idle machine may take on a busy one."""
GCS_PORT, DASHBOARD_PORT = 6379, 8265
_RAYS_OWN = ("_AutoscalingCoordinatorActor",)
"""Actors of which Ray keeps one for each cluster, whatever runs on it."""
# Ray's command, without the server for Ray Client: it waits 30 s for its node, and where a busy
# machine takes longer it ends, and the node with it.
_RAY = """
from ray.scripts import scripts
scripts.get_ray_client_dependency_error = lambda: "nobody asks for it"
scripts.main()
"""
# The command itself. Ray looks for its node among all processes that it sees, and prefers a head:
# here it sees those of other hosts too.
_DISTGEN = """
import functools, sys
import ray
from distgen.cli.main import main
ray.init = functools.partial(ray.init, _node_ip_address=sys.argv.pop(1))
main()
"""
_REPOSITORY = Path(__file__).parents[2]


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` returns once that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)
    return value


class Cluster:
    """A head and its nodes, each with `cpus` of its own.

    Args:
        network: The hosts; the first becomes the head.
        store: What they share.
        cpus: What each offers, the head first.
        redis: Address of a Redis that keeps the head's state, `host:port`.
    """

    def __init__(
        self, network: Network, store: Store, cpus: tuple[int, ...], redis: str | None = None
    ) -> None:
        self.network = network
        self.store = store
        self.cpus = dict(zip(network.hosts, cpus, strict=True))
        self.own: dict[Host, dict[str, str]] = {}
        """Environment variables of one host alone."""
        self.head, *self.others = network.hosts
        self.address = f"{self.head.address}:{GCS_PORT}"
        token = secrets.token_hex(32)
        # Made once: what it needs for addresses with TLS, which nobody has here, takes a while.
        self._dashboard = httpx.Client(
            trust_env=False, timeout=30.0, headers={"Authorization": f"Bearer {token}"}
        )
        token_file = network.folder / "token"
        token_file.write_text(token)
        token_file.chmod(0o600)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            **_LOSS,
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
            "RAY_TMPDIR": str(network.folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(_REPOSITORY),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "XDG_STATE_HOME": str(network.folder / "state"),
            **({"RAY_REDIS_ADDRESS": redis} if redis else {}),
        }

    def start(self) -> None:
        """Start all nodes that do not run, and wait until the head knows them."""

        def is_up() -> bool:
            alive = self.alive()
            for host in self.cpus:
                # On a busy machine Ray gives the start of a node up after half a minute.
                if not host.processes() and (host is self.head or self.head in alive):
                    host.reap()
                    self.start_node(host)
            return len(alive) == len(self.cpus)

        killed = {host for host in self.cpus if not host.processes()}
        if self.head not in killed:
            wait_until(lambda: not killed & self.alive().keys(), "the loss of killed nodes")
        wait_until(is_up, "all nodes")

    def start_node(self, host: Host) -> None:
        """Start one node, and do not wait for it."""
        if host is self.head:
            # Ray takes a killed head for one that runs, where it sees nodes of other hosts.
            (host.folder / "ray" / "ray_current_cluster").unlink(missing_ok=True)
            place = [
                *("--head", "--port", str(GCS_PORT)),
                *("--dashboard-host", host.address, "--dashboard-port", str(DASHBOARD_PORT)),
            ]
        else:
            place = ["--address", self.address]
        host.start(
            [
                *(sys.executable, "-c", _RAY, "start", "--block", *place),
                *("--node-ip-address", host.address, "--num-cpus", str(self.cpus[host])),
                *("--object-store-memory", str(100 * 2**20), "--include-log-monitor", "false"),
                *("--temp-dir", str(host.folder / "ray"), "--resources", self._label(host)),
            ],
            "node.log",
            {**self.environment, **self.own.get(host, {})},
        )

    def alive(self) -> dict[Host, str]:
        """The hosts that the head takes for alive, with their nodes' ids."""
        try:
            rows = self._get("/nodes?view=summary")["data"]["summary"]
        except (httpx.HTTPError, ValueError):
            return {}
        raylets = [row["raylet"] for row in rows if row["raylet"].get("state") == "ALIVE"]
        return {
            host: raylet["nodeId"]
            for host in self.network.hosts
            for raylet in raylets
            if host.name in raylet.get("resourcesTotal", {})
        }

    def leftovers(self) -> list[str]:
        """Placement groups and actors that are still there."""
        groups = self._get("/api/v0/placement_groups")["data"]["result"]["result"]
        actors = self._get("/api/v0/actors")["data"]["result"]["result"]
        return [
            *(f"placement group {g['name']}" for g in groups if g["state"] != "REMOVED"),
            *(
                f"actor {actor['class_name']}"
                for actor in actors
                if actor["state"] != "DEAD" and actor["class_name"] not in _RAYS_OWN
            ),
        ]

    def _get(self, path: str) -> Any:
        url = f"http://{self.head.address}:{DASHBOARD_PORT}{path}"
        return self._dashboard.get(url).raise_for_status().json()

    def _label(self, host: Host) -> str:
        return json.dumps({host.name: 1})


class Run:
    """A run on the cluster, and the driver that has it trained."""

    def __init__(self, cluster: Cluster, job: TrainJob, host: Host | None = None) -> None:
        self.cluster = cluster
        self.job = job
        self.host = host or cluster.head
        self.folder = RunFolder(job.location)
        self.driver: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Give the command; always the same one."""
        file = self.host.folder / f"{self.job.name}.yaml"
        file.write_text(dump_yaml(self.job))
        there = [sys.executable, "-c", _DISTGEN, self.host.address]
        command = [*there, "train", str(file), "--address", self.cluster.address]
        self.driver = self.host.start(command, f"{self.job.name}.log", self.cluster.environment)
        return self.driver

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """The run's events of these kinds; all, where none is named."""
        return [e for e in self.folder.events() if not kinds or e["event"] in kinds]

    def images_seen(self) -> int:
        """The last point of the curves."""
        return max((row["images_seen"] for row in self.folder.metrics()), default=0)

    def reaches(self, images_seen: int) -> None:
        """Wait for a point of the curves from there on."""
        self.waits(lambda: self.images_seen() >= images_seen, f"{images_seen} images")

    def waits(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something while the driver runs."""

        def met() -> Any:
            value = condition()
            ended = self.driver is not None and self.driver.poll() is not None
            assert value or not ended, f"the driver ended before {what}:\n{self.said()}"
            return value

        return wait_until(met, what)

    def ends(self) -> int:
        """Wait for the driver; its exit code."""
        assert self.driver is not None
        return self.driver.wait(PATIENCE_S)

    def ranks(self) -> list[dict[str, Any]]:
        """The ranks that were last seen to run."""
        return list(self.events("workers running")[-1]["ranks"])

    def place_of(self, rank: int) -> Host:
        """The host of a rank."""
        name = self.ranks()[rank]["host"]
        return next(host for host in self.cluster.network.hosts if host.name == name)

    def said(self) -> str:
        """The end of what the driver has written."""
        log = self.host.folder / f"{self.job.name}.log"
        return log.read_text(errors="replace")[-4000:] if log.is_file() else ""


@contextmanager
def three_hosts(
    cpus: tuple[int, int, int] = (1, 1, 1), redis: str | None = None
) -> Iterator[Cluster]:
    """Three hosts, a store that they share, and a Ray cluster on them."""
    with Network(3) as network, serving(network.address) as store:
        cluster = Cluster(network, store, cpus, redis)
        cluster.start()
        yield cluster
