"""What the C library does with memory that was freed: keep it for the next use, or give it back."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from typing import Any

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 1 << 30
_GROWTH_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Tell the C library not to hand freed memory back to the kernel, up to 1 GiB of it.

    On a CPU every activation is a malloc and a free. By default glibc maps the large ones anew each
    time, and the kernel then clears each page again: that costs a seventh of a small GAN's step.

    Returns:
        Whether this C library can be told; elsewhere nothing happens.
    """
    mallopt = _function("mallopt")
    return mallopt is not None and all(
        mallopt(parameter, value) == 1
        for parameter, value in (
            (_M_MMAP_THRESHOLD, _KEPT_BYTES),
            (_M_TRIM_THRESHOLD, _KEPT_BYTES),
            (_M_TOP_PAD, _GROWTH_BYTES),
        )
    )


def give_back_freed_memory() -> bool:
    """Hand the kernel all whole pages that are free, in the heaps of all threads.

    Returns:
        Whether this C library can; elsewhere nothing happens.
    """
    malloc_trim = _function("malloc_trim")
    if malloc_trim is None:
        return False
    malloc_trim(0)
    return True


def give_back_every(seconds: float) -> None:
    """Do so again and again from now on, in a thread that ends with the process.

    glibc gives each of many threads a heap of its own and trims none but the first by itself. What
    a burst of work has left in them stays, and adds up to a slow growth in a process that serves
    for months. Objects in cycles are collected first: under load many have grown old by the time
    they are garbage, and among old ones Python looks so seldom that they tear the heap apart.
    """
    if not give_back_freed_memory():
        return

    def repeat() -> None:
        while True:
            time.sleep(seconds)
            gc.collect()
            give_back_freed_memory()

    threading.Thread(target=repeat, name="freed memory", daemon=True).start()


def _function(name: str) -> Any:
    """A function of the C library, or None: musl has neither of those above."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)
