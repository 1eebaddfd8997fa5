"""What a run over three hosts survives: the lines of the table of faults that need a cluster."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from distgen.core.errors import PreemptedError
from tests.faults import SLOWER, Survived, first_after, lost_after, when
from tests.hosts import inflict
from tests.hosts.cluster import Cluster, Run, wait_until
from tests.hosts.conftest import job_for
from tests.hosts.network import Host
from tests.ray.conftest import weights

pytestmark = pytest.mark.faults

Add = Callable[[Survived, int], None]
FIRST_POINT = 600
"""Images after which a fault comes: one checkpoint is written, and the next is on its way."""
CLOCK = Path(__file__).with_name("clock.c")


@pytest.fixture
def cluster(hosts_cluster: Cluster) -> Iterator[Cluster]:
    """The hosts, all of them up; whatever a test has done to them is mended for the next."""
    hosts_cluster.start()
    yield hosts_cluster
    for host in hosts_cluster.network.hosts:
        host.join()
    gone = [host for host in hosts_cluster.others if host not in hosts_cluster.alive()]
    for host in gone:
        host.kill()


class Tried:
    """A run to which a fault comes, and what became of it."""

    def __init__(
        self,
        fault: str,
        cluster: Cluster,
        undisturbed: dict[str, bytes],
        host: Host | None = None,
        **changes: Any,
    ) -> None:
        self.fault = fault
        self.cluster = cluster
        self.undisturbed = undisturbed
        name = re.sub("[^a-z0-9]+", "-", fault.lower()).strip("-")
        self.run = Run(cluster, job_for(cluster, name, **changes), host)
        self.at = self.again = 0.0

    def until_the_middle(self) -> None:
        """Start the run, and wait until it has come far enough; the fault comes next."""
        self.run.start()
        self.run.reaches(FIRST_POINT)
        self.at = time.time()

    def same_command(self) -> None:
        """Give the command again, as whoever finds the run ended would."""
        self.run.start()
        self.again = time.time()

    def finish(self, *signs: str) -> Survived:
        """The line for the table, once the run has ended well and has left nothing behind.

        Args:
            signs: Events that tell of the fault; none where nothing has to notice it.
        """
        assert self.run.ends() == 0, self.run.said()
        events = self.run.events()
        told = first_after(events, self.at, *signs) if signs else None
        assert told or not signs, [event["event"] for event in events]
        start = self.again or (when(told) if told else 0.0)
        running = first_after(events, start, "workers running") if start else None
        assert running or not start
        wait_until(lambda: not self.cluster.leftovers(), "the end of all actors")
        assert not (self.run.folder.location / "ray").is_dir(), "what Ray keeps for itself is gone"
        return Survived(
            self.fault,
            weights(self.run.job) == self.undisturbed,
            lost_after(events, self.at),
            detected_s=when(told) - self.at if told else None,
            back_s=when(running) - start if running else None,
        )

    @property
    def every(self) -> int:
        return self.run.job.training.checkpoint_every


def test_a_worker_is_killed(cluster: Cluster, undisturbed: dict[str, bytes], survived: Add) -> None:
    tried = Tried("SIGKILL of a worker", cluster, undisturbed)
    tried.until_the_middle()
    inflict.kill_worker(tried.run)
    survived(tried.finish("workers lost"), tried.every)
    (lost,) = tried.run.events("workers lost")
    assert "rank" in lost["cause"]


def test_a_node_is_killed(cluster: Cluster, undisturbed: dict[str, bytes], survived: Add) -> None:
    tried = Tried("SIGKILL of a whole node", cluster, undisturbed)
    tried.until_the_middle()
    host = inflict.kill_node(tried.run)
    survived(tried.finish("workers lost"), tried.every)
    assert host.name not in {member["host"] for member in tried.run.ranks()}


def test_the_driver_is_killed(
    cluster: Cluster, undisturbed: dict[str, bytes], survived: Add
) -> None:
    tried = Tried("SIGKILL of the driver", cluster, undisturbed)
    tried.until_the_middle()
    inflict.kill_driver(tried.run)
    tried.same_command()
    survived(tried.finish(), tried.every)


def test_the_controller_is_killed(
    cluster: Cluster, undisturbed: dict[str, bytes], survived: Add
) -> None:
    tried = Tried("SIGKILL of Ray Train's controller", cluster, undisturbed)
    tried.until_the_middle()
    inflict.kill_controller(tried.run)
    survived(tried.finish("workers lost"), tried.every)
    assert "controller" in tried.run.events("workers lost")[0]["cause"]


@pytest.mark.parametrize("seconds", [5, 10])
def test_a_link_is_cut_for_a_while(
    cluster: Cluster, undisturbed: dict[str, bytes], survived: Add, seconds: int
) -> None:
    tried = Tried(f"link cut for {seconds} s", cluster, undisturbed)
    tried.until_the_middle()
    inflict.cut_for(tried.run, seconds)
    # TCP tries again after 0.2, 0.6, 1.4, 3, 6.2 and 12.6 s: after 10 s a node may be lost or not.
    survived(tried.finish(), tried.every)
    assert seconds > 5 or len(tried.run.events("workers running")) == 1, "it only waited"


def test_a_link_is_cut_for_good(
    cluster: Cluster, undisturbed: dict[str, bytes], survived: Add
) -> None:
    tried = Tried("link cut for good", cluster, undisturbed)
    tried.until_the_middle()
    host = inflict.cut_for_good(tried.run)
    survived(tried.finish("workers lost"), tried.every)
    assert host.name not in {member["host"] for member in tried.run.ranks()}
    # The two agents of Ray's node go on asking for the head.
    wait_until(
        lambda: all("Agent" in name for name in host.running()), "the end of what was cut off"
    )


def test_a_rank_hangs(cluster: Cluster, undisturbed: dict[str, bytes], survived: Add) -> None:
    patience_s = 10.0 * SLOWER
    name = "hung rank (SIGSTOP), patience 10 s"
    tried = Tried(name, cluster, undisturbed, scaling__patience_s=patience_s)
    tried.until_the_middle()
    rank = inflict.hang(tried.run)
    survived(tried.finish("stalled"), tried.every)
    (stalled,) = tried.run.events("stalled")
    assert stalled["states"][str(rank)] == psutil.STATUS_STOPPED


def test_a_rank_is_slow(cluster: Cluster, undisturbed: dict[str, bytes], survived: Add) -> None:
    tried = Tried("slow rank (a fifth of its time, 8 s)", cluster, undisturbed)
    tried.until_the_middle()
    inflict.slow_down(tried.run, 8)
    survived(tried.finish(), tried.every)
    assert len(tried.run.events("workers running")) == 1, "slow is not lost"


def test_the_driver_is_told_to_end(
    cluster: Cluster, undisturbed: dict[str, bytes], survived: Add
) -> None:
    tried = Tried("SIGTERM of the driver", cluster, undisturbed)
    tried.until_the_middle()
    assert inflict.end_driver(tried.run) == PreemptedError.exit_code
    tried.same_command()
    survived(tried.finish("stopped"), tried.every)


def test_a_node_is_announced_to_leave(
    cluster: Cluster, undisturbed: dict[str, bytes], survived: Add
) -> None:
    tried = Tried("node announced to leave (drain)", cluster, undisturbed)
    tried.until_the_middle()
    rank, host = inflict.victim(tried.run)
    assert inflict.drain(tried.run) is host
    tried.run.waits(lambda: len(tried.run.events("workers running")) == 2, "other ranks")
    host.kill()
    row = tried.finish("node leaving")
    survived(row, 0)
    (leaving,) = tried.run.events("node leaving")
    assert (leaving["host"], leaving["ranks"]) == (host.name, [rank])
    assert 0 < leaving["seconds_left"] <= 60


def test_a_rank_runs_out_of_memory(
    cluster: Cluster, undisturbed: dict[str, bytes], survived: Add
) -> None:
    if inflict.memory_groups() is None:
        pytest.skip("this machine does not divide its memory (cgroups)")
    tried = Tried("out of memory in a rank", cluster, undisturbed)
    tried.until_the_middle()
    with inflict.short_of_memory(inflict.pid_of(tried.run, 0)):
        tried.run.waits(lambda: tried.run.events("workers lost"), "the kernel to end the rank")
        # A rank that is short of memory writes slowly: the checkpoint that it was at is lost, too.
        survived(tried.finish("workers lost"), 2 * tried.every)


def test_clocks_jump(
    cluster: Cluster, undisturbed: dict[str, bytes], survived: Add, tmp_path: Path
) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (Debian: gcc, libc6-dev)")
    library, setting = tmp_path / "clock.so", cluster.network.folder / "clock"
    options = ["-shared", "-fPIC", "-O2", "-o", str(library), str(CLOCK), "-ldl"]
    subprocess.run([compiler, *options], check=True)
    setting.write_text("0")
    try:
        for host in cluster.others:  # one rank at least is on one of them
            host.kill()
            cluster.own[host] = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(setting)}
        cluster.start()
        tried = Tried("clock jumps by an hour, and back", cluster, undisturbed)
        tried.until_the_middle()
        setting.write_text("3600")
        time.sleep(3)
        setting.write_text("-3600")
        told = [sys.executable, "-c", "import time; print(time.time())"]
        there = {**os.environ, **cluster.own[cluster.others[0]]}
        shown = float(subprocess.run(told, env=there, capture_output=True, check=True).stdout)
        assert abs(shown + 3600 - time.time()) < 60, "the clock was set"
        survived(tried.finish(), tried.every)
        assert len(tried.run.events("workers running")) == 1, "nobody was taken for lost"
    finally:
        cluster.own.clear()
        for host in cluster.others:
            host.kill()
