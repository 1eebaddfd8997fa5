"""Whoever waits for a request waits until its deadline, and hears when the client has gone."""

from __future__ import annotations

import asyncio
import time

import pytest

from distgen.serving.making.account import Account, DeadlineError, in_time, opened
from tests.unit.serving.making.bundles import in_loop


@in_loop
async def test_what_comes_in_time_is_had_and_the_rest_is_a_deadline():
    with opened(Account(deadline=time.monotonic() + 60)):
        assert await in_time(asyncio.sleep(0, "here")) == "here"
    with opened(Account(deadline=time.monotonic() - 1)), pytest.raises(DeadlineError):
        await in_time(asyncio.Event().wait())
    assert await in_time(asyncio.sleep(0, "for nobody")) == "for nobody"


@in_loop
async def test_who_is_cancelled_in_the_moment_of_the_result_is_cancelled():
    loop = asyncio.get_running_loop()
    with opened(Account(deadline=time.monotonic() + 60)):
        place = loop.create_future()
        waiting = asyncio.create_task(in_time(place))
    await asyncio.sleep(0)
    place.set_result("here")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
