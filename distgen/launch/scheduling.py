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

    This is Linux's policy SCHED_BATCH, which needs no rights; other systems have nothing like it.
    """
    if not wanted or not hasattr(os, "SCHED_BATCH"):
        yield
        return
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    if before != os.SCHED_OTHER:  # whoever started this process has decided otherwise
        yield
        return
    os.sched_setscheduler(0, os.SCHED_BATCH, parameters)
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, parameters)
