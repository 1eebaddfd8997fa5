"""Who interrupts whom on a machine that computes on all of its cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def as_batch_work(wanted: bool = True) -> Iterator[None]:
    """Inside, processes and threads that are started wait for a core until it is their turn.

    They get the same share of the cores as before, but waking up they do not interrupt who computes
    there. A dozen processes of Ray wake a thousand times a second between them, and ranks go in
    step: each time that one of them is interrupted, all of them wait. What is wanted at once, such
    as an answer to a request, may come 4 ms later.

    This is Linux's policy SCHED_BATCH, which needs no rights. Where there is nothing like it, or
    whoever started this process has decided otherwise, all stays as it is.
    """
    changed = wanted and _replace("SCHED_OTHER", "SCHED_BATCH")
    try:
        yield
    finally:
        if changed:
            _replace("SCHED_BATCH", "SCHED_OTHER")


def _replace(before: str, after: str) -> bool:
    """Give this thread another policy, if it has the one `before`; whether that is done."""
    if not hasattr(os, after):
        return False
    try:
        if os.sched_getscheduler(0) == getattr(os, before):
            os.sched_setscheduler(0, getattr(os, after), os.sched_getparam(0))
            return True
    except OSError:  # a sandbox that knows of no policies
        pass
    return False
