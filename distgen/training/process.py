"""What a process that trains is told before its first step."""

from __future__ import annotations

import ctypes
import sys

import torch

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 1 << 30
_GROWTH_BYTES = 64 << 20


def suit_process(device: torch.device) -> None:
    """Let this process train well on `device`."""
    if device.type == "cpu":
        keep_freed_memory()
    else:
        # Steps are alike: the fastest kernels for their shapes are worth a search.
        torch.backends.cudnn.benchmark = True
        # What is not bf16 is meant to be exact: gradients of gradients, and what cards measure.
        # By default convolutions would round their inputs to TF32, ten bits of mantissa.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def keep_freed_memory() -> bool:
    """Tell the C library not to hand freed memory back to the kernel, up to 1 GiB of it.

    On a CPU every activation is a malloc and a free. By default glibc maps the large ones anew each
    time, and the kernel then clears each page again: that costs a seventh of a small GAN's step.

    Returns:
        Whether this C library can be told; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return False
    return all(
        mallopt(parameter, value) == 1
        for parameter, value in (
            (_M_MMAP_THRESHOLD, _KEPT_BYTES),
            (_M_TRIM_THRESHOLD, _KEPT_BYTES),
            (_M_TOP_PAD, _GROWTH_BYTES),
        )
    )
