"""What a plan measures is this job's own step, on this machine, and nothing is left of it."""

from __future__ import annotations

import os

import pytest

from distgen.bench.scale.calibrate import (
    calibrate,
    calibrate_link,
    calibrate_memory,
    cores_here,
    room_here,
)
from distgen.core.config import parse
from distgen.training.job import TrainJob

pytestmark = pytest.mark.slow


def test_steps_of_two_sizes_become_a_line_with_its_parts(digits, tmp_path):
    raw = {
        "name": "measured",
        "storage": str(tmp_path),
        "data": {"shards": digits},
        "model": {"family": "gan", "latent_dim": 4, "width": 8},
        "training": {"images": 1000, "batch_size": 64},
    }
    job = parse(TrainJob, raw, "a test")
    told: list[str] = []
    compute = calibrate(job, [8, 64], side_by_side=2, seconds=0.2, on_message=told.append)
    assert [text.split(",")[0] for text in told] == [
        "measuring steps of 8 images",
        "measuring steps of 64 images",
    ]
    assert compute.rank_s(64) > 0
    assert compute.cpu_s(64) > 0
    assert set(compute.backward) == {"discriminator", "generator"}
    assert 0 < sum(compute.backward.values()) < 1
    assert 0 < 64 * compute.noise_s < compute.rank_s(64)
    assert not compute.overlaps
    assert "8 and 64 images" in compute.source
    assert not list(tmp_path.iterdir()), "no run is left behind"
    assert room_here(job) == cores_here()


def test_a_link_has_a_latency_and_a_bandwidth():
    link = calibrate_link()
    assert 1e-6 < link.latency_s < 1
    assert 1e5 < link.bytes_per_s < 1e12


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="ranks share memory on Linux only")
@pytest.mark.parametrize("size", [1, 2**33])
def test_memory_has_a_meeting_and_a_bandwidth(size):
    memory = calibrate_memory(size)
    assert memory is not None
    assert 1e-6 < memory.meeting_s < 1
    assert 1e7 < memory.bytes_per_s < 1e13
