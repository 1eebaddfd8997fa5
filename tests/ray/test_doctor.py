"""`distgen doctor` and what is looked at before the first step, on two real node processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from distgen.core.config import dump_yaml
from distgen.launch.state import ClusterState
from tests.ray.conftest import MakeJob

PROGRAM = "from distgen.cli.main import main; main()"
OF_EVERY_NODE = {
    "software", "devices", "interface", "disk", "storage disk", "/dev/shm", "storage", "shards",
    "names", "open files", "stack dumps", "token", "clock", "ports", "bandwidth",
}  # fmt: skip
# The same name everywhere, and another folder in every process.
OWN_FOLDER = "/proc/self/cwd/runs"


def distgen(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: this one may be in another cluster."""
    known = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        env={**known, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        | environment,
        capture_output=True,
        text=True,
    )


def by_subject(machine: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {finding["subject"]: finding for finding in machine["findings"]}


def test_doctor_looks_at_every_node_and_finds_no_problem(
    nodes: ClusterState, digits: str, tmp_path: Path
) -> None:
    ran = distgen("doctor", "--shards", digits, "--json", folder=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads(ran.stdout)
    first, second, whole = report["machines"]
    assert report["problems"] == 0
    for machine in (first, second):
        found = by_subject(machine)
        assert set(found) == OF_EVERY_NODE
        assert found["storage"]["verdict"] == "ok"
        assert found["clock"]["verdict"] == "ok"
        assert machine["address"] == nodes.address.rpartition(":")[0]
    assert first["node"] != second["node"]
    assert second["name"].endswith(second["node"][:6]), "nodes of one host are told apart"
    assert first["name"].startswith("head ")
    assert by_subject(whole)["auth"]["verdict"] == "ok"
    assert "over 2 ranks in" in by_subject(whole)["all-reduce"]["text"]
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_storage_that_is_another_folder_on_a_node_is_found_and_refused(
    nodes: ClusterState, make_job: MakeJob, tmp_path: Path
) -> None:
    ran = distgen("doctor", "--storage", OWN_FOLDER, "--quiet", folder=tmp_path)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "storage is not shared" in ran.stdout
    assert "try: storage=a folder that every node mounts" in ran.stdout

    file = tmp_path / "job.yaml"
    file.write_text(dump_yaml(make_job("vae", storage=OWN_FOLDER)))
    ran = distgen("train", str(file), "--address", "auto", folder=tmp_path)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert "cannot take part in this run: storage is not shared" in ran.stderr
    assert nodes.address.rpartition(":")[0] in ran.stderr, "the node is named"
    (run,) = (tmp_path / "runs").iterdir()
    assert not (run / "ray").exists(), "no worker was started"


def test_doctor_of_one_machine_starts_no_ray(digits: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a" * 64)
    token.chmod(0o644)
    place = {
        "XDG_STATE_HOME": str(tmp_path),
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(tmp_path),
    }
    ran = distgen("doctor", "--shards", digits, "--json", folder=tmp_path, **place)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    (machine,) = json.loads(ran.stdout)["machines"]
    found = by_subject(machine)
    assert machine["name"] == "this machine"
    assert set(found) == OF_EVERY_NODE - {"clock", "bandwidth"}
    assert [s for s, each in found.items() if each["verdict"] == "problem"] == ["token"]
    assert found["token"]["remedy"] == f"chmod 600 {token}"
    assert [path.name for path in tmp_path.iterdir()] == ["token"], "no session of Ray's"
