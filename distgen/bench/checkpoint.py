"""How long a training step stands still for a checkpoint, beside a save that it would wait for.

Both sides write the same state with the same checksums and the same syncs to the same disk, in
turn. The plain one is waited for. The other is what a run does: a thread copies the state and
writes the copy while steps go on, of which the first must not change a weight before the copy is
made. The stall is what the trainer waits for. A step's forward and backward are 0.2 s of computing
on one core, which is little for so much state.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distgen.core.heap import keep_freed_memory
from distgen.core.part import Part
from distgen.core.storage import locate
from distgen.training import checkpoint
from distgen.training.ema import EMA
from distgen.training.writer import CheckpointWriter

_SIDE = 1024
_COPIES = 4
"""A weight, its average, and Adam's two moments."""
_STEP_S = 0.2


def bench_checkpoint(
    *,
    megabytes: int = 500,
    rounds: int = 5,
    folder: str | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The stall of a step over the time of a plain save of as much state.

    Args:
        megabytes: State of the run, in 10^6 bytes.
        rounds: Saves of each side; the first of both is not counted, for memory is new then.
        folder: Where to write; by default the folder for temporary files.
        on_progress: Told what is being done.

    Returns:
        `ratio` of the medians, both medians in seconds, `slowed_s`: by how much steps took longer
        in all while the thread copied and wrote, and every single measurement.
    """
    report = on_progress or (lambda _text: None)
    keep_freed_memory()  # as every process that trains
    parts = _state(megabytes)
    work = _Work()
    usual_s = statistics.median(work() for _ in range(9))
    plain, stalls, slowed, written = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="distgen-bench-", dir=folder) as place:
        saved, kept = locate(Path(place, "plain")), locate(Path(place, "behind"))
        writer = CheckpointWriter(kept, keep=1, on_written=lambda _: None)
        for number in range(1, rounds + 2):
            report(f"round {number} of {rounds + 1}")
            begin = time.perf_counter()
            checkpoint.save(saved, number, parts)
            plain.append(time.perf_counter() - begin)
            checkpoint.prune(saved, 1)
            begin = time.perf_counter()
            writer.save(number, parts, lent=list(parts))
            saved_s = time.perf_counter() - begin
            late = work() - usual_s
            waited = time.perf_counter()
            writer.copied()
            stalls.append(saved_s + time.perf_counter() - waited)
            while writer.is_writing:
                late += work() - usual_s
            written.append(time.perf_counter() - begin)
            slowed.append(max(0.0, late))
            writer.wait()
    plain_s, stall_s = statistics.median(plain[1:]), statistics.median(stalls[1:])
    return {
        "ratio": stall_s / plain_s,
        "stall_s": stall_s,
        "plain_s": plain_s,
        "slowed_s": statistics.median(slowed[1:]),
        "written_after_s": statistics.median(written[1:]),
        "first_stall_s": stalls[0],
        "stall_runs": stalls[1:],
        "plain_runs": plain[1:],
        "megabytes": megabytes,
        "rounds": rounds,
    }


class _Network(nn.Module):
    """Weights and nothing else."""

    def __init__(self, matrices: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.rand(_SIDE, _SIDE) for _ in range(matrices))


def _state(megabytes: int) -> Mapping[str, Part]:
    """The parts of a run of this size."""
    matrices = max(1, round(megabytes * 1e6 / (_COPIES * 4 * _SIDE * _SIDE)))
    network = _Network(matrices)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    for weight in network.parameters():
        weight.grad = torch.rand_like(weight)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"network": network, "optimizer": optimizer, "ema": EMA(network, 1000.0)}


class _Work:
    """A step's worth of computing on one core; its seconds."""

    def __init__(self) -> None:
        self._left: Tensor = torch.rand(256, 256)
        begin = time.perf_counter()
        self._products = 10
        self()
        self._products = max(1, round(10 * _STEP_S / (time.perf_counter() - begin)))

    def __call__(self) -> float:
        begin = time.perf_counter()
        for _ in range(self._products):
            torch.mm(self._left, self._left)
        return time.perf_counter() - begin
