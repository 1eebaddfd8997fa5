"""What torch can compute on here, asked in a process of its own: a broken driver may hang."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from distgen.core.aside import run_aside
from distgen.core.errors import DistgenError
from distgen.core.finding import Finding, gib, ok, problem, warning

TIMEOUT_S = 150.0
"""For loading torch and starting CUDA, on a machine that is busy with both."""
_DRIVER = Path("/dev/nvidiactl")
_HIDDEN = "CUDA_VISIBLE_DEVICES"


def devices(offered: float | None = None) -> Finding:
    """Whether the GPUs here can be used, and are those that Ray counts on.

    Args:
        offered: GPUs of this node as Ray knows it; None where Ray is not asked.
    """
    environment = dict(os.environ)
    if offered is not None and not environment.get(_HIDDEN):
        environment.pop(_HIDDEN, None)  # Ray hides all GPUs from those who ask for none
    try:
        report = run_aside("distgen.training.devices", timeout_s=TIMEOUT_S, environment=environment)
    except DistgenError as error:
        return problem(
            "devices", f"torch does not start: {error.what}", 'python -c "import torch"; nvidia-smi'
        )
    return judge(report, offered, has_driver=_DRIVER.exists())


def judge(report: dict[str, Any], offered: float | None, *, has_driver: bool) -> Finding:
    """What a report means.

    Args:
        report: What `look` has seen.
        offered: GPUs of this node as Ray knows it; None where Ray is not asked.
        has_driver: Whether NVIDIA's driver is loaded.
    """
    names, versions = report["gpus"], f"CUDA {report['cuda']}, nccl {report['nccl']}"
    if not names and (offered or has_driver):
        promised = f"Ray offers {offered:g} GPUs" if offered else "NVIDIA's driver is here"
        if report["cuda"] is None:
            why, remedy = "this torch is built for CPUs", "install a CUDA build of torch"
        else:
            why, remedy = report["error"] or f"torch sees no GPU ({versions})", "nvidia-smi"
        return (problem if offered else warning)("devices", f"{promised}, but {why}", remedy)
    if not names:
        return ok("devices", "no GPU: ranks train on CPUs")
    listed = ", ".join(f"{name} ({gib(size)})" for name, size in names)
    if offered is not None and offered != len(names):
        return (problem if offered > len(names) else warning)(
            "devices",
            f"Ray offers {offered:g} GPUs, and torch sees {len(names)}: {listed}",
            f"start Ray with --num-gpus {len(names)}",
        )
    return ok("devices", f"{listed}; {versions}")


def look() -> dict[str, Any]:
    """Name and memory in bytes of each GPU, and what torch was built with."""
    import torch

    gpus: list[tuple[str, int]] = []
    error = None
    try:
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            gpus.append((about.name, about.total_memory))
    except RuntimeError as failure:  # the driver is older than CUDA, or the device is lost
        error = str(failure).splitlines()[0]
    known: tuple[int, ...] = torch.cuda.nccl.version() if torch.version.cuda else ()  # type: ignore[no-untyped-call]
    return {
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, known)) or None,
        "gpus": [] if error else gpus,
        "error": error,
    }


if __name__ == "__main__":
    print(json.dumps(look()))
