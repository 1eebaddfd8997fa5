"""A run over hosts that share nothing but a store is the run that was asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.hosts.cluster import Cluster, Run, wait_until
from tests.hosts.conftest import job_for
from tests.hosts.network import Network, clear_leftovers, remains
from tests.ray.conftest import weights

pytestmark = pytest.mark.faults


def test_hosts_see_one_another_and_leave_nothing_behind() -> None:
    with Network(2) as network:
        one, two = network.hosts
        listen = "import socket; s = socket.create_server(('', 7000)); s.accept()"
        two.start([sys.executable, "-c", listen], "log")
        dial = f"""
import socket, time
while True:
    try:
        socket.create_connection(("{two.address}", 7000), 1)
    except OSError:
        time.sleep(0.1)
    else:
        break
"""
        assert one.start([sys.executable, "-c", dial], "log").wait(60) == 0
        one.cut()
        cut_off = one.start([sys.executable, "-c", dial], "log")
        with pytest.raises(subprocess.TimeoutExpired):
            cut_off.wait(2)
        assert remains(network.name)
    assert not remains(network.name)
    assert cut_off.poll() is not None


def test_what_a_dead_process_has_left_is_cleared_away() -> None:
    leave = """
import os
from tests.hosts.network import Network
network = Network(1).__enter__()
network.hosts[0].start(["sleep", "1000"], "log")
print(network.name, flush=True)
os._exit(1)
"""
    name = subprocess.run(
        [sys.executable, "-c", leave], stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    assert remains(name) == [name, f"{name}-1"]
    clear_leftovers()
    assert not remains(name)


def test_a_run_over_hosts_is_the_run_on_one(
    hosts_cluster: Cluster, undisturbed: dict[str, bytes]
) -> None:
    run = Run(hosts_cluster, job_for(hosts_cluster, "plain"))
    run.start()
    assert run.ends() == 0, run.said()
    ranks = run.ranks()
    assert len({rank["host"] for rank in ranks}) == 2
    assert {rank["interface"] for rank in ranks} == {"eth0"}
    assert weights(run.job) == undisturbed
    wait_until(lambda: not hosts_cluster.leftovers(), "the end of all actors")
