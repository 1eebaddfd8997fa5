"""The Slurm script with stand-ins for Slurm and Python that write down how they were called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "cluster" / "slurm" / "train.sbatch"

STAND_INS = {
    "scontrol": """
        if [ "$1" = show ]; then echo node-1; else echo "scontrol $*" >>"$CALLS"; fi
    """,
    "srun": """
        case "$*" in *hostname*) echo 10.0.0.1; exit ;; esac
        while [ "$1" != -- ]; do shift; done
        shift
        exec "$@"
    """,
    "python": """
        echo "python $*" >>"$CALLS"
        exit "$ENDS_WITH"
    """,
}


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "activate").write_text(f'PATH="{folder}:$PATH"\n')
    for name, text in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o700)
    return tmp_path / "calls"


def sbatch(calls: Path, kind: str, ends_with: int = 0) -> tuple[int, list[str]]:
    (calls.parent / "job.yaml").write_text(f"name: x\n{kind}\n")
    environment = {
        "PATH": f"{calls.parent}/.venv/bin:{os.environ['PATH']}",
        "CALLS": str(calls),
        "ENDS_WITH": str(ends_with),
        "SLURM_SUBMIT_DIR": str(calls.parent),
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node-[1-2]",
    }
    command = ["bash", str(SCRIPT), "job.yaml", "scaling.workers=8"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not ended.stderr
    assert not list(calls.parent.glob(".ray-token-*")), "the token goes with its job"
    return ended.returncode, calls.read_text().splitlines()


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("kind: train", "train job.yaml scaling.workers=8"),
        ("", "train job.yaml scaling.workers=8"),
        ("kind: tune", "tune job.yaml scaling.workers=8 --resume"),
        ('kind: "tune"  # a search', "tune job.yaml scaling.workers=8 --resume"),
    ],
)
def test_job_that_comes_back_from_the_queue_goes_on(calls: Path, kind: str, command: str) -> None:
    assert sbatch(calls, kind) == (0, [f"python -m distgen {command}"])


@pytest.mark.parametrize(("code", "requeued"), [(75, True), (1, False), (2, False)])
def test_only_a_preempted_job_is_put_back_into_the_queue(
    calls: Path, code: int, requeued: bool
) -> None:
    ended, said = sbatch(calls, "kind: train", code)
    assert ended == code
    assert ("scontrol requeue 42" in said) is requeued
