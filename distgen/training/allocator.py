"""Memory that a step frees is kept for the next one."""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 1 << 30
_GROWTH_BYTES = 64 << 20

ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(_KEPT_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES),
    "MALLOC_TOP_PAD_": str(_GROWTH_BYTES),
    "MALLOC_ARENA_MAX": "1",
}
"""The same for a process that is yet to start. Where training runs in a thread other than the first
one, as in Ray's workers, it is the only way: such threads have arenas of their own, which glibc
unmaps as soon as they are empty, whatever the thresholds."""


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
