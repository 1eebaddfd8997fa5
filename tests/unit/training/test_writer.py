"""Checkpoints written behind the training: what they hold, when they count, what goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from threading import Event, Thread, current_thread
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import nn

from distgen.core.storage import Location, locate
from distgen.training import checkpoint
from distgen.training.snapshot import Snapshot, as_safetensors, take
from distgen.training.writer import CheckpointWriter


def refuse(place: Location, error: Exception) -> None:
    raise AssertionError(f"{place} was called damaged: {error}")


def filled(value: float) -> dict[str, nn.Module]:
    network = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)
    return {"network": network}


def test_what_is_written_is_what_was_when_it_was_asked_for(tmp_path, monkeypatch):
    go_on = Event()
    written = checkpoint.write

    def late(*arguments: Any) -> Location:
        go_on.wait(10)
        return written(*arguments)

    monkeypatch.setattr(checkpoint, "write", late)
    told: list[int] = []
    writer = CheckpointWriter(locate(tmp_path), keep=2, on_written=told.append)
    parts = filled(1.0)
    writer.save(512, parts)
    with torch.no_grad():
        parts["network"].weight.fill_(2.0)  # the next step comes before the disk is done
    writer.tell()
    assert told == []
    assert checkpoint.complete(locate(tmp_path)) == []
    go_on.set()
    writer.wait()
    assert told == [512]
    assert checkpoint.load_latest(locate(tmp_path), parts, refuse) == 512
    assert torch.equal(parts["network"].weight, torch.ones_like(parts["network"].weight))


def test_a_checkpoint_waits_for_the_one_before_and_old_ones_go(tmp_path):
    told: list[int] = []
    writer = CheckpointWriter(locate(tmp_path), keep=2, on_written=told.append)
    for seen in (1, 2, 3):
        writer.save(seen, filled(float(seen)))
    writer.wait()
    assert told == [1, 2, 3]
    assert [int(place.name) for place in checkpoint.complete(locate(tmp_path))] == [2, 3]


def test_a_disk_that_fails_is_heard_of_where_the_run_can_end(tmp_path):
    (tmp_path / "file").write_text("no folder")
    writer = CheckpointWriter(locate(tmp_path / "file"), keep=2, on_written=lambda _: None)
    writer.save(1, filled(1.0))
    with pytest.raises(OSError, match="file"):
        writer.wait()
    writer.close()


def test_other_tools_read_what_is_written():
    tensors = {
        "a/weight": torch.randn(2, 3, 1),
        "step": torch.tensor(7.0),
        "none": torch.zeros(0, 4),
        "half": torch.randn(5).to(torch.bfloat16),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "flags": torch.tensor([True, False, True]),
        "long": torch.tensor([2**62]),
    }
    read = load(b"".join(as_safetensors(tensors)))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_a_snapshot_shares_no_memory_with_what_it_was_taken_of():
    parts = filled(1.0)
    snapshot = take(0, parts)
    taken = {tensor.data_ptr() for tensor in snapshot.parts["network"].tensors.values()}
    assert taken.isdisjoint({tensor.data_ptr() for tensor in parts["network"].parameters()})


WRITE_FOR_EVER = """
import sys, torch
from torch import nn
from distgen.core.storage import locate
from distgen.training.writer import CheckpointWriter
network = nn.Linear(400, 400)
writer = CheckpointWriter(locate(sys.argv[1]), keep=2, on_written=print)
for seen in range(1, 100_000):
    with torch.no_grad():
        network.weight.fill_(float(seen))
    writer.save(seen, {"network": network})
    if seen == 3:
        print("go", flush=True)
"""


def test_a_process_killed_at_any_point_leaves_whole_checkpoints(tmp_path):
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        while process.stdout.readline().strip() != "go":
            assert process.poll() is None
        time.sleep(0.003 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        network = nn.Linear(400, 400)
        seen = checkpoint.load_latest(locate(folder), {"network": network}, refuse)
        assert seen >= 2
        assert torch.equal(network.weight, torch.full_like(network.weight, float(seen)))


def test_what_is_lent_is_copied_before_it_may_change(tmp_path, monkeypatch):
    go_on, began = Event(), Event()
    copied = Snapshot.copy_lent

    def late(snapshot: Snapshot) -> None:
        if current_thread().name == "distgen-checkpoint":
            began.set()
            assert go_on.wait(60)
        copied(snapshot)

    monkeypatch.setattr(Snapshot, "copy_lent", late)
    writer = CheckpointWriter(locate(tmp_path), keep=2, on_written=lambda _: None)
    parts = filled(1.0)
    released: list[float] = []

    def step() -> None:
        writer.copied()
        with torch.no_grad():
            parts["network"].weight.fill_(2.0)
        released.append(2.0)

    writer.save(512, parts, lent=["network"])
    assert began.wait(60)
    stepping = Thread(target=step)
    stepping.start()
    stepping.join(0.05)
    assert released == [], "a step went on before its weights were copied"
    go_on.set()
    stepping.join(60)
    writer.wait()
    assert checkpoint.load_latest(locate(tmp_path), parts, refuse) == 512
    assert torch.equal(parts["network"].weight, torch.ones_like(parts["network"].weight))


def test_what_is_not_lent_is_copied_at_once(tmp_path):
    parts = {"network": nn.Linear(2, 2), "other": nn.Linear(2, 2)}
    snapshot = take(0, parts, lent=["network"])
    own = {name: part.weight.data_ptr() for name, part in parts.items()}
    assert snapshot.parts["network"].tensors["weight"].data_ptr() == own["network"]
    assert snapshot.parts["other"].tensors["weight"].data_ptr() != own["other"]
    snapshot.copy_lent()
    assert snapshot.parts["network"].tensors["weight"].data_ptr() != own["network"]


def test_a_copy_that_fails_lets_the_step_go_on_and_is_heard_of(tmp_path, monkeypatch):
    writer = CheckpointWriter(locate(tmp_path), keep=2, on_written=lambda _: None)
    copied = Snapshot.copy_lent

    def full(snapshot: Snapshot) -> None:
        if current_thread().name == "distgen-checkpoint":
            raise MemoryError("no room")
        copied(snapshot)

    monkeypatch.setattr(Snapshot, "copy_lent", full)
    writer.save(1, filled(1.0), lent=["network"])
    writer.copied()
    with pytest.raises(MemoryError, match="no room"):
        writer.wait()
