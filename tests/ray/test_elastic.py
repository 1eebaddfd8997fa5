"""A run on a range of workers outlives its nodes, and takes new ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from distgen.core.config import dump_yaml
from distgen.launch import nodes
from distgen.launch.state import ClusterState
from distgen.training.local import train_here
from distgen.training.run import RunFolder
from tests.ray.conftest import MakeJob, losses

PATIENCE_S = 240.0
"""That something which takes seconds on an idle machine may take here."""


def wait_until(condition: Callable[[], Any], driver: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert driver.poll() is None, "the run ended"
        assert time.monotonic() < deadline
        time.sleep(0.2)


def kill_node(state: ClusterState, index: int) -> None:
    """End a node outright, as a lost machine does: with all its workers."""
    process = state.nodes[index].process()
    assert process is not None
    for each in (process, *process.children(recursive=True)):
        each.kill()
    psutil.wait_procs([process], timeout=10)


@pytest.mark.faults
def test_a_run_goes_on_with_fewer_workers_and_takes_new_ones(
    two_nodes: ClusterState, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(
        "vae",
        training__images=1_000_000,
        training__checkpoint_every=1600,
        training__log_every=1600,
        scaling={"workers": [1, 2], "cpus_per_worker": 1},
    )
    file = tmp_path / "job.yaml"
    file.write_text(dump_yaml(job))
    folder = RunFolder(job.location)

    def ranks() -> list[int]:
        return [len(e["ranks"]) for e in folder.events() if e["event"] == "workers running"]

    def goes_on() -> bool:
        since = max(e["images_seen"] for e in folder.events() if e["event"] == "workers running")
        return any(row["images_seen"] > since for row in folder.metrics())

    command = [
        str(Path(sys.executable).with_name("distgen")),
        "train",
        str(file),
        "--address",
        "auto",
    ]
    with subprocess.Popen(command, env=os.environ.copy()) as driver:
        try:
            wait_until(lambda: ranks() == [2] and goes_on(), driver)
            kill_node(two_nodes, 1)
            wait_until(lambda: ranks() == [2, 1] and goes_on(), driver)
            nodes._start_node(two_nodes, 2, 3)
            wait_until(lambda: ranks() == [2, 1, 2] and goes_on(), driver)
            driver.send_signal(signal.SIGTERM)
            assert driver.wait(PATIENCE_S) == 75
        finally:
            driver.kill()
    resized = [(e["before"], e["ranks"]) for e in folder.events() if e["event"] == "resized"]
    assert resized == [(2, 1), (1, 2)]
    (lost,) = [e for e in folder.events() if e["event"] == "workers lost"]
    assert "process died" in lost["cause"] or "is gone" in lost["cause"]

    # The curve is that of a run on one rank that nothing happened to.
    found = losses(job)
    until = found[-2][0]
    alone = make_job(
        "vae",
        training__images=until,
        training__checkpoint_every=1600,
        training__log_every=1600,
    )
    train_here(alone.with_workers(0))
    expected = dict(losses(alone))
    assert [seen for seen, _ in found if seen in expected] == sorted(expected), "no point twice"
    for seen, each in found:
        if seen in expected:
            np.testing.assert_allclose(
                list(each.values()), list(expected[seen].values()), rtol=2e-2, err_msg=str(seen)
            )
