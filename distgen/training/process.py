"""What a process is told for as long as it trains or measures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distgen.core.heap import keep_freed_memory


@contextmanager
def suited(device: torch.device) -> Iterator[None]:
    """Let this process compute on `device` as runs do, and afterwards as it did before."""
    if device.type == "cpu":
        keep_freed_memory()
        with _denormals_flushed():
            yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    # Steps are alike: the fastest kernels for their shapes are worth a search.
    cudnn.benchmark = True
    # What is not bf16 is meant to be exact: gradients of gradients, and what cards measure.
    # By default convolutions would round their inputs to TF32, ten bits of mantissa.
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Numbers below 1e-38 are zero, in this thread and in those that it starts meanwhile.

    A sigmoid that is sure of its pixel leaves gradients as small as that, and a CPU's arithmetic on
    them is many times slower: trained for a while, a VAE takes up to twice as long for a step.
    """
    before = _flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushes_denormals() -> bool:
    return float(torch.tensor(2.0**-100).mul(2.0**-40)) == 0.0
