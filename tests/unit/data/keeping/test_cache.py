"""Decoded pictures are shared by the processes of a host, and end with the last of them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from distgen.data import Stream
from distgen.data.keeping import shared
from distgen.data.keeping.cache import MemoryCache
from distgen.data.keeping.shared import SharedMemory
from tests.unit.data.conftest import Made

# A process that shares memory: prints its first bytes, writes 7 into them, and waits for its end.
HOLDER = """
import sys
from pathlib import Path
from distgen.data.keeping import shared
shared.FOLDER = Path(sys.argv[1])
memory = shared.SharedMemory("set", 1 << 20)
print(memory.joined, memory.bytes[0], flush=True)
memory.bytes[0] = 7
print("ready", flush=True)
sys.stdin.readline()
memory.close()
print("left", flush=True)
sys.stdin.readline()
"""


class Counted:
    """Pictures that are all their index, and how often they were decoded."""

    def __init__(self) -> None:
        self.decoded: list[int] = []

    def decode(self, indices: np.ndarray, out_nhwc: Any) -> None:
        self.decoded += indices.tolist()
        for index, out_hwc in zip(indices, out_nhwc, strict=True):
            out_hwc[...] = index

    def labels(self, indices: np.ndarray) -> np.ndarray:
        return indices + 1000


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Lists of holders of this test alone."""
    folder = Path("/dev/shm") / f"distgen-test-{os.getpid()}"
    folder.mkdir()
    monkeypatch.setattr(shared, "FOLDER", folder)
    yield folder
    left = [place.name for place in folder.iterdir()]
    for name in left:
        (folder / name).unlink()
    folder.rmdir()
    assert left == []


def holder(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_processes_share_memory_that_ends_with_the_last_of_them(memory: Path) -> None:
    first, second = holder(memory), holder(memory)
    starts = sorted(say(process) for process in (first, second))
    assert starts[0].startswith("False")
    assert starts[1].startswith("True")
    assert [say(process) for process in (first, second)] == ["ready", "ready"]
    ours = SharedMemory("set", 1 << 20)
    assert ours.joined
    assert ours.bytes[0] == 7
    # Whoever goes, and however: the others stay, and new ones find them.
    first.send_signal(signal.SIGKILL)
    first.wait()
    ours.close()
    late = SharedMemory("set", 1 << 20)
    assert late.joined
    assert late.bytes[0] == 7
    late.close()
    second.communicate("\n\n")
    fresh = SharedMemory("set", 1 << 20)
    assert not fresh.joined
    assert fresh.bytes[0] == 0
    fresh.close()


def test_memory_of_killed_processes_is_free_at_once(memory: Path) -> None:
    process = holder(memory)
    assert [say(process), say(process)] == ["False 0", "ready"]
    assert len(list(memory.iterdir())) == 1  # the list of holders: the memory has no name
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert sum(place.stat().st_size for place in memory.iterdir()) < 100
    ours = SharedMemory("set", 1 << 20)
    assert not ours.joined
    assert ours.bytes[0] == 0
    ours.close()


def test_a_list_of_holders_is_not_believed(memory: Path) -> None:
    """Numbers of processes come again, and files may be anybody's."""
    other = (memory / "other").open("w+b")
    other.truncate(1 << 20)
    inode = os.fstat(other.fileno()).st_ino
    lines = [f"{os.getpid()} {other.fileno()} {inode}", "1 1 1", "999999 3 5", "half a", "x y z"]
    (memory / f"distgen-{os.getuid()}-set-{1 << 20}").write_text("\n".join(lines))
    ours = SharedMemory("set", 1 << 20)
    assert not ours.joined
    ours.bytes[0] = 1
    assert os.pread(other.fileno(), 1, 0) == b"\0"
    ours.close()
    other.close()
    (memory / "other").unlink()


@pytest.mark.parametrize("why", ["full", "refused", "not ours"])
def test_without_room_each_worker_keeps_its_own_and_says_so(
    memory: Path, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if why == "full":
        nothing = SimpleNamespace(available=0)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: nothing)
    elif why == "refused":

        def refuse(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", refuse)
    else:
        name = f"distgen-{os.getuid()}-print-1-{4096 + 2048 + 10 * 12}"
        (memory / name).symlink_to("/etc/passwd")
    with caplog.at_level(logging.WARNING):
        cache = MemoryCache("print", 10, (2, 2, 3))
    assert not cache.is_shared
    assert "Every worker keeps its own" in caplog.text
    out = np.empty((2, 2, 2, 3), np.uint8)
    assert cache.fill(Counted(), np.array([3, 9]), out).tolist() == [1003, 1009]
    assert (out[1] == 9).all()
    cache.close()
    if why == "not ours":
        (memory / name).unlink()


def test_a_picture_is_decoded_once_for_all_workers(memory: Path) -> None:
    readers = [Counted(), Counted()]
    caches = [MemoryCache("print", 10, (2, 2, 3)) for _ in readers]
    for _ in range(2):  # in the second epoch each wants what the other has decoded
        for rank in (0, 1):
            for cache, reader, part in zip(caches, readers, (rank, 1 - rank), strict=True):
                wanted = np.arange(part, 10, 2)[::-1]
                out = np.empty((5, 2, 2, 3), np.uint8)
                assert cache.fill(reader, wanted, out).tolist() == (wanted + 1000).tolist()
                assert (out == wanted[:, None, None, None]).all()
    assert sorted(readers[0].decoded + readers[1].decoded) == list(range(10))
    other = MemoryCache("another", 10, (2, 2, 3))
    assert other.missing(np.arange(10)).tolist() == list(range(10))
    for cache in (*caches, other):
        cache.close()


def test_a_cache_that_is_smaller_than_the_set_keeps_a_part(memory: Path) -> None:
    cache, reader = MemoryCache("print", 6, (2, 2, 3)), Counted()
    for _ in range(3):
        wanted = np.array([9, 2, 5, 5, 6, 0])
        out = np.empty((6, 2, 2, 3), np.uint8)
        assert cache.fill(reader, wanted, out).tolist() == (wanted + 1000).tolist()
        assert (out == wanted[:, None, None, None]).all()
    assert sorted(reader.decoded) == [0, 2, 5, *[6] * 3, *[9] * 3]
    assert cache.missing(np.array([0, 1, 7])).tolist() == [1, 7]
    cache.close()


def test_memory_stays_within_its_budget(memory: Path, make: Callable[..., Made]) -> None:
    made = make(300, side=64)  # 1.2 MiB decoded
    with Stream(made.shard_set, batch_size=50, cache="memory", cache_budget_mib=1) as stream:
        for batch in islice(stream, 20):
            assert (batch.images_nhwc == made.images_nhwc[batch.indices_n]).all()
        held = sum(int(place.name.rpartition("-")[2]) for place in memory.iterdir())
        assert 1_000_000 < held <= (1 << 20) + 10_000
    with Stream(made.shard_set, batch_size=50, cache_budget_mib=1) as stream:
        next(stream)
        assert list(memory.iterdir()) == []
