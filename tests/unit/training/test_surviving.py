"""What a run in one process survives: lines of the table of faults that need no cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distgen.core import stores
from distgen.core.config import dump_yaml
from distgen.core.errors import PreemptedError
from distgen.core.retry import Patience
from distgen.training import checkpoint
from distgen.training.job import TrainJob
from distgen.training.local import train_here
from distgen.training.run import RunFolder, Tick
from tests.faults import Survived, first_after, lost_after, when

pytestmark = pytest.mark.faults

EVERY = 96
Add = Callable[[Survived, int], None]
Make = Callable[..., TrainJob]


def weights(job: TrainJob) -> dict[str, bytes]:
    newest = checkpoint.complete(RunFolder(job.location).checkpoints)[-1]
    return {place.name: place.read_bytes() for place in newest.list()}


@pytest.fixture
def whole(make_job: Make) -> dict[str, bytes]:
    """The weights of a run that nothing happened to."""
    job = make_job("gan", "whole", checkpoint_every=EVERY)
    train_here(job)
    return weights(job)


def command(job: TrainJob, folder: Path) -> list[str]:
    file = folder / "job.yaml"
    file.write_text(dump_yaml(job))
    return [str(Path(sys.executable).with_name("distgen")), "train", str(file)]


# A checkpoint's files are written one after the other, and its manifest last.
DIES_WRITING = """
import os, signal, sys
from distgen.cli.main import main
from distgen.core.storage import Location
write = Location.write_parts
def write_or_die(self, parts):
    if self.path.endswith({file!r}):
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, parts)
Location.write_parts = write_or_die
main()
"""


@pytest.mark.parametrize(
    "last", ["network-generator.safetensors", "manifest.json"], ids=["halfway", "before its end"]
)
def test_kill_in_the_middle_of_a_checkpoint(
    last: str, whole: dict[str, bytes], make_job: Make, tmp_path: Path, survived: Add
) -> None:
    job = make_job("gan", "killed", checkpoint_every=EVERY)
    line = command(job, tmp_path)
    dying = DIES_WRITING.format(file=f"{2 * EVERY:012d}/{last}")
    at = time.time()
    died = subprocess.run([sys.executable, "-c", dying, *line[1:]], check=False)
    assert died.returncode == -signal.SIGKILL
    again = time.time()
    subprocess.run(line, check=True)
    events = RunFolder(job.location).events()
    resumed = first_after(events, again, "resumed")
    assert resumed is not None
    assert resumed["images_seen"] == EVERY
    left = [place for place in job.location.find() if ".tmp" in place]
    assert not left, "files that were half written are gone"
    survived(
        Survived(
            f"killed while it writes a checkpoint, {last.partition('.')[0]}",
            weights(job) == whole,
            lost_after(events, at),
            back_s=when(resumed) - again,
        ),
        EVERY,
    )


def test_latest_checkpoint_is_damaged(
    whole: dict[str, bytes], make_job: Make, survived: Add
) -> None:
    job = make_job("gan", "damaged", checkpoint_every=EVERY)
    with pytest.raises(PreemptedError):
        train_here(job, on_tick=lambda tick: tick.images_seen >= 2 * EVERY)
    newest = checkpoint.complete(RunFolder(job.location).checkpoints)[-1]
    file = newest / "ema.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    at = time.time()
    train_here(job)
    events = RunFolder(job.location).events()
    told = first_after(events, at, "damaged checkpoint skipped")
    resumed = first_after(events, at, "resumed")
    assert told is not None
    assert resumed is not None
    assert (told["checkpoint"], resumed["images_seen"]) == (newest.name, EVERY)
    assert "ema.safetensors" in told["cause"]
    row = Survived(
        "latest checkpoint damaged",
        weights(job) == whole,
        lost_after(events, at),
        detected_s=when(told) - at,
        back_s=when(resumed) - when(told),
    )
    survived(row, EVERY)


def test_sigterm_with_a_grace_period(
    whole: dict[str, bytes], make_job: Make, tmp_path: Path, survived: Add
) -> None:
    job = make_job("gan", "terminated", checkpoint_every=EVERY)
    line, folder = command(job, tmp_path), RunFolder(job.location)
    with subprocess.Popen(line) as process:
        while not any(row["images_seen"] >= EVERY for row in folder.metrics()):
            assert process.poll() is None
            time.sleep(0.02)
        at = time.time()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == PreemptedError.exit_code == 75
    stopped = first_after(folder.events(), at, "stopped")
    assert stopped is not None
    again = time.time()
    subprocess.run(line, check=True)
    events = folder.events()
    resumed = first_after(events, again, "resumed")
    assert resumed is not None
    assert resumed["images_seen"] == stopped["images_seen"], "nothing is trained twice"
    row = Survived(
        "SIGTERM, then the same command again",
        weights(job) == whole,
        lost_after(events, at),
        detected_s=when(stopped) - at,
        back_s=when(resumed) - again,
    )
    survived(row, EVERY)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a disk to fill takes root and mount")
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(place)])
    if made.returncode != 0:
        pytest.skip("this machine mounts no tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Fill:
    """Fills a disk at a point of the clock, and makes room again some time later."""

    def __init__(self, disk: Path, at: int, for_s: float) -> None:
        self.disk = disk
        self.at = at
        self.for_s = for_s
        self.when = 0.0

    def __call__(self, tick: Tick) -> bool:
        if tick.images_seen >= self.at and not self.when:
            self.when = time.time()
            ballast = self.disk / "ballast"
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(2**12))
            threading.Timer(self.for_s, ballast.unlink).start()
        return False


def test_disk_that_is_full_for_a_while(
    whole: dict[str, bytes],
    make_job: Make,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    survived: Add,
) -> None:
    monkeypatch.setattr(stores, "PATIENCE", Patience(60.0, 30.0, 0.1, 0.5))
    job = make_job("gan", "full", checkpoint_every=EVERY)
    job = job.model_copy(update={"storage": str(small_disk / "runs")})
    fill = Fill(small_disk, 2 * EVERY, for_s=2.5)
    train_here(job, on_tick=fill)
    events = RunFolder(job.location).events()
    told = first_after(events, fill.when, "storage waited for")
    assert told is not None
    assert "No space left" in told["cause"]
    assert told["waited_s"] > 1.0
    assert not first_after(events, fill.when, "resumed"), "it waits, and is not started again"
    row = Survived("disk full for 2.5 s", weights(job) == whole, lost_after(events, fill.when))
    survived(row, EVERY)


def test_disk_that_stays_full(
    whole: dict[str, bytes],
    make_job: Make,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    survived: Add,
) -> None:
    monkeypatch.setattr(stores, "PATIENCE", Patience(0.5, 30.0, 0.1, 0.5))
    job = make_job("gan", "full", checkpoint_every=EVERY)
    job = job.model_copy(update={"storage": str(small_disk / "runs")})
    fill = Fill(small_disk, 2 * EVERY, for_s=3600.0)
    with pytest.raises(OSError, match="No space left"):
        train_here(job, on_tick=fill)
    (small_disk / "ballast").unlink()
    train_here(job)
    events = RunFolder(job.location).events()
    row = Survived(
        "disk stays full; room is made, the same command",
        weights(job) == whole,
        lost_after(events, fill.when),
    )
    survived(row, EVERY)
