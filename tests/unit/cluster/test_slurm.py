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
        case "$*" in
        *--all-ip-addresses*) echo "10.0.0.7 fe80::1"; exit ;;
        *"rm -rf"*) echo "removed ${!#}" >>"$CALLS.address"; exit ;;
        *hostname*) echo "${OWN_ADDRESS:-10.0.0.1}"; exit ;;
        esac
        echo "RAY_ADDRESS=$RAY_ADDRESS" >>"$CALLS.address"
        env | grep -E "_TIMEOUT|_timeout" >>"$CALLS.patience"
        if [ "${HEAD_STARTS:-yes}" = no ]; then exit 0; fi
        while [ "$1" != -- ]; do shift; done
        shift
        "$@"
        exit "${NODES_END_WITH:-$?}"
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


def sbatch(
    calls: Path, kind: str, ends_with: int = 0, *, said: str = "", **more: str
) -> tuple[int, list[str]]:
    (calls.parent / "job.yaml").write_text(f"name: x\n{kind}\n")
    environment = {
        "PATH": f"{calls.parent}/.venv/bin:{os.environ['PATH']}",
        "CALLS": str(calls),
        "ENDS_WITH": str(ends_with),
        "SLURM_SUBMIT_DIR": str(calls.parent),
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node-[1-2]",
        **more,
    }
    command = ["bash", str(SCRIPT), "job.yaml", "scaling.workers=8"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert said in ended.stderr if said else not ended.stderr
    left = {path.name for path in calls.parent.iterdir()}
    assert left <= {".venv", "job.yaml", "calls", "calls.address", "calls.patience"}, (
        "the token goes with its job"
    )
    return ended.returncode, calls.read_text().splitlines() if calls.exists() else []


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


@pytest.mark.parametrize("code", [0, 1, 75])
def test_a_jobs_end_is_distgens_own_whatever_happens_to_the_other_nodes(
    calls: Path, code: int
) -> None:
    ended, said = sbatch(calls, "kind: train", code, NODES_END_WITH="137")
    assert ended == code
    assert ("scontrol requeue 42" in said) is (code == 75)


def test_a_cluster_that_did_not_start_is_no_success(calls: Path) -> None:
    """`ray symmetric-run` ends with 0 then."""
    ended, said = sbatch(calls, "kind: train", said="nothing has run", HEAD_STARTS="no")
    assert (ended, said) == (1, [])


@pytest.mark.parametrize(
    ("own", "used"), [("10.0.0.1", "10.0.0.1"), ("127.0.1.1", "10.0.0.7"), ("::1", "10.0.0.7")]
)
def test_the_head_has_an_address_that_other_nodes_reach(calls: Path, own: str, used: str) -> None:
    sbatch(calls, "kind: train", OWN_ADDRESS=own)
    assert f"RAY_ADDRESS={used}:20042\n" in Path(f"{calls}.address").read_text()


def test_nodes_wait_for_a_head_that_is_late(calls: Path) -> None:
    """Both are half a minute otherwise, the second whatever the first says."""
    sbatch(calls, "kind: train")
    set_to = dict(line.split("=") for line in Path(f"{calls}.patience").read_text().split())
    for name in ("RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT", "RAY_py_gcs_connect_timeout_s"):
        assert int(set_to[name]) >= 300


@pytest.mark.parametrize(("code", "removed"), [(0, True), (75, True), (1, False)])
def test_rays_files_are_removed_unless_its_logs_may_say_why(
    calls: Path, code: int, removed: bool
) -> None:
    sbatch(calls, "kind: train", code)
    written = Path(f"{calls}.address").read_text()
    assert ("removed /tmp/distgen-42\n" in written) is removed


def test_a_signal_reaches_distgen_and_the_job_goes_on_to_its_end(calls: Path) -> None:
    """Slurm signals the script alone; distgen writes its checkpoint and ends with 75."""
    script = calls.parent / ".venv" / "bin" / "python"
    script.write_text(
        "#!/bin/bash\n"
        "trap 'echo checkpoint >>\"$CALLS\"; exit 75' TERM\n"
        'until [ -s "$DISTGEN_PID_FILE" ]; do sleep 0.01; done\n'
        'kill -TERM "$SCRIPT_PID"\n'
        "for _ in {1..100}; do sleep 0.05; done\n"
    )
    bash = calls.parent / ".venv" / "bin" / "srun"
    bash.write_text(bash.read_text().replace("#!/bin/bash", "#!/bin/bash\nexport SCRIPT_PID=$PPID"))
    ended, said = sbatch(calls, "kind: train")
    assert ended == 75
    assert said == ["checkpoint", "scontrol requeue 42"]
