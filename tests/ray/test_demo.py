"""`distgen demo`: the whole path in one command, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from distgen.core.storage import locate
from distgen.registry import ModelStore
from distgen.training.run import RunFolder

MARK = "DISTGEN_TEST_DEMO"


def marked_processes(mark: str) -> list[str]:
    """Processes, whoever their parent is by now, that inherited our mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:80])
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_the_demo_goes_from_pictures_to_an_endpoint_and_leaves_nothing_running(tmp_path: Path):
    mark = str(tmp_path)
    command = [sys.executable, "-m", "distgen", "demo", "--images", "320", "--folder"]
    result = subprocess.run(
        [*command, str(tmp_path / "demo")],
        env={**os.environ, MARK: mark},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    # Processes that Ray has ended may take a moment to go, on a busy machine.
    deadline = time.monotonic() + 60
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    place = tmp_path / "demo"
    with Image.open(place / "samples.png") as picture:
        assert picture.width * picture.height > 10 * 8 * 16 * 16, "ten classes, eight pictures each"
    run = RunFolder(locate(place / "runs" / "digits-gan"))
    assert [event["event"] for event in run.events()][-1] == "finished"
    store = ModelStore(str(place / "models"))
    assert store.aliases("digits-gan") == {"champion": 1}
    assert "Three commands to try next" in result.stdout
