"""Runs whose folder lies in a store: nothing of their story is lost, nor of their work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from distgen.core import stores
from distgen.core.retry import Patience
from distgen.core.storage import Location, locate
from distgen.training import run
from distgen.training.local import train_here
from distgen.training.run import RunFolder, Tick
from tests.faults import Survived, first_after, lost_after
from tests.ray.conftest import tiny_job, weights
from tests.stores.proxy import Fault, FaultProxy, Request
from tests.stores.server import BUCKET, Store

ALONE: dict[str, Any] = {
    "scaling__workers": 0,
    "training__images": 480,
    "training__checkpoint_every": 160,
    "training__log_every": 80,
}


def test_events_of_processes_that_write_at_once_are_all_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = locate(store.url("told/by-many"))
    folders = []
    for process in ("driver", "rank-0", "rank-0-again"):
        monkeypatch.setattr(run, "_PROCESS", process)
        folders.append(RunFolder(place))

    def tell(folder: RunFolder) -> None:
        for number in range(8):
            folder.event("told", number)

    threads = [threading.Thread(target=tell, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for folder in folders:
        events = folder.events()
        assert sorted(event["images_seen"] for event in events) == sorted(3 * list(range(8)))
        assert [e["time"] for e in events] == sorted(e["time"] for e in events)
    before = folders[0].events()
    folders[0].gather_events()
    assert [each.name for each in place.list()] == ["events.jsonl"]
    assert folders[1].events() == before
    tell(folders[2])
    assert len(folders[0].events()) == len(before) + 8


def test_processes_that_tell_the_same_at_the_same_time_have_both_told_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Still:
        @staticmethod
        def now(zone: tzinfo) -> datetime:
            return datetime(2026, 5, 1, 12, 0, 0, 250_000, zone)

    place = locate(store.url("told/at-once"))
    monkeypatch.setattr(run, "datetime", Still)
    for process in ("rank-0", "rank-1"):
        monkeypatch.setattr(run, "_PROCESS", process)
        RunFolder(place).event("stopped", 80)
    folder = RunFolder(place)
    assert len(folder.events()) == 2

    with monkeypatch.context() as killed_between:
        killed_between.setattr(Location, "remove", lambda _: None)
        folder.gather_events()
    assert len(folder.events()) == 2, "gathered, and still there: not four"
    folder.gather_events()
    assert len(folder.events()) == 2


def test_whoever_reads_while_events_are_gathered_misses_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = locate(store.url("told/and-gathered"))
    monkeypatch.setattr(run, "_PROCESS", "rank-0")
    RunFolder(place).event("stopped", 80)
    reader, driver = RunFolder(place), RunFolder(place)
    listed = Location.list

    def gathered_after(folder: Location) -> list[Location]:
        found = listed(folder)
        monkeypatch.setattr(Location, "list", listed)
        driver.gather_events()
        return found

    monkeypatch.setattr(Location, "list", gathered_after)
    assert [event["event"] for event in reader.events()] == ["stopped"]
    assert [each.name for each in place.list()] == ["events.jsonl"]


def test_what_is_removed_between_its_opening_and_its_reading_is_missing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PATIENCE", Patience(60.0, 2.0, 0.1, 0.5))
    locate(store.url("gone/soon")).write_bytes(b"it was here")

    def remove(asked: Request) -> None:
        if asked.method == "GET":
            store.filesystem().delete_file(f"{BUCKET}/gone/soon")

    with FaultProxy(store.port, remove) as proxy:
        with pytest.raises(FileNotFoundError):
            locate(store.url("gone/soon", proxy.port)).read_bytes()
        assert [asked.method for asked in proxy.requests].count("GET") == 1, "and not tried again"


@pytest.fixture(scope="module")
def undisturbed(digits: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The weights of a run on a disk that nothing happened to."""
    job = tiny_job("vae", digits, str(tmp_path_factory.mktemp("runs")), **ALONE)
    train_here(job)
    return weights(job)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("store answers 503 for 3 s", Fault(status=503, code="SlowDown")),
        ("store stalls for 3 s", Fault(delay_s=20.0)),
    ],
    ids=["503", "stall"],
)
def test_a_run_outlasts_its_store(
    name: str,
    fault: Fault,
    store: Store,
    digits: str,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, bytes],
    survived: Callable[[Survived, int], None],
) -> None:
    monkeypatch.setattr(stores, "PATIENCE", Patience(120.0, 8.0, 0.1, 0.5))
    store.upload(Path(digits), "digits")
    with FaultProxy(store.port) as proxy:
        storage = store.url(f"runs-{fault.status}", proxy.port)
        job = tiny_job("vae", store.url("digits", proxy.port), storage, **ALONE)
        began: list[float] = []

        def misbehave(_: Request) -> Fault | None:
            return fault if time.monotonic() < began[0] + 3.0 else None

        def on_tick(tick: Tick) -> bool:
            if tick.images_seen >= 240 and not began:
                began.append(time.monotonic())
                proxy.misbehaviour = misbehave
            return False

        at = time.time()
        train_here(job, on_tick=on_tick)
        events = RunFolder(job.location).events()
        told = first_after(events, at, "storage waited for")
        assert told is not None
        assert told["waited_s"] > 1.0
        assert not first_after(events, at, "resumed")
        row = Survived(name, weights(job) == undisturbed, lost_after(events, at))
        survived(row, job.training.checkpoint_every)
