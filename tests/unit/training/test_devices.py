from __future__ import annotations

from typing import Any

import pytest

from distgen.training import all_reduce
from distgen.training.devices import judge

GPU = ["NVIDIA H200", 139 * 2**30]
CPU_BUILD = {"cuda": None, "nccl": None, "gpus": [], "error": None}
NO_GPU = {"cuda": "12.8", "nccl": "2.27.3", "gpus": [], "error": None}
ONE_GPU = {**NO_GPU, "gpus": [GPU]}
BROKEN = {**NO_GPU, "error": "CUDA driver version is insufficient"}


@pytest.mark.parametrize(
    ("report", "offered", "has_driver", "verdict", "said"),
    [
        (CPU_BUILD, None, False, "ok", "ranks train on CPUs"),
        (CPU_BUILD, None, True, "warning", "this torch is built for CPUs"),
        (CPU_BUILD, 2.0, True, "problem", "Ray offers 2 GPUs, but this torch is built for CPUs"),
        (NO_GPU, 1.0, False, "problem", "torch sees no GPU"),
        (BROKEN, 1.0, True, "problem", "driver version is insufficient"),
        (ONE_GPU, None, True, "ok", "NVIDIA H200 (139.0 GiB); CUDA 12.8, nccl 2.27.3"),
        (ONE_GPU, 1.0, True, "ok", "NVIDIA H200"),
        (ONE_GPU, 0.0, True, "warning", "Ray offers 0 GPUs, and torch sees 1"),
        (ONE_GPU, 2.0, True, "problem", "Ray offers 2 GPUs, and torch sees 1"),
    ],
)
def test_devices_are_those_that_ray_counts_on(
    report: dict[str, Any], offered: float | None, has_driver: bool, verdict: str, said: str
) -> None:
    found = judge(report, offered, has_driver=has_driver)
    assert (found.verdict, said in found.text) == (verdict, True), found
    assert bool(found.remedy) == (verdict != "ok")


def test_sum_that_steps_would_wait_for_is_told() -> None:
    quick, slow = all_reduce.judge(0.0042, 3), all_reduce.judge(2.0, 3)
    assert (quick.verdict, quick.text) == ("ok", "4 MB over 3 ranks in 4.2 ms (gloo)")
    assert slow.verdict == "warning"
