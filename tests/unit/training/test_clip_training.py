"""The loop on clips: the same promises as on pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distgen.core.config import parse
from distgen.core.errors import PreemptedError, UsageError
from distgen.data import open_shard_set, read_samples
from distgen.data.building import build
from distgen.training import checkpoint
from distgen.training.job import TrainJob
from distgen.training.local import train_here
from distgen.training.run import RunFolder, open_pictures, prepare
from distgen.training.trainer import train

FRAMES = 6


def bouncing_squares(count: int, side: int = 16, seed: int = 0) -> np.ndarray:
    """Clips uint8 [count, FRAMES, side, side, 1] of a square that goes on as it started."""
    random = np.random.default_rng(seed)
    clips = np.zeros((count, FRAMES, side, side, 1), np.uint8)
    room = side - 5
    for clip in clips:
        place, step = random.integers(0, room + 1, 2), random.integers(-2, 3, 2)
        for frame in clip:
            top, left = place
            frame[top : top + 5, left : left + 5] = 255
            turned = (place + step < 0) | (place + step > room)
            step = np.where(turned, -step, step)
            place = place + step
    return clips


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A set of such clips."""
    folder: Path = tmp_path_factory.mktemp("squares")
    for number, clip in enumerate(bouncing_squares(80)):
        place = folder / "videos" / "squares"
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{number}.npy", clip)
    build(str(folder / "videos"), folder / "set", frames=FRAMES, mode="L", split=0.2)
    return str(folder / "set")


def job_for(shards: str, folder: Path, name: str = "clips", **training: Any) -> TrainJob:
    raw = {
        "name": name,
        "storage": str(folder),
        "data": {
            "shards": shards,
            "lanes": 4,
            "shuffle_window": 64,
            "augment": {"flip": 0.5, "shift": 1},
        },
        "model": {"family": "clip-rvae", "latent_dim": 3, "width": 8, "state": 16},
        "training": {
            "images": 320,
            "batch_size": 16,
            "checkpoint_every": 96,
            "log_every": 32,
            **training,
        },
    }
    return parse(TrainJob, raw, "test")


def started(job: TrainJob) -> RunFolder:
    return prepare(job, open_pictures(job).fingerprint)


def train_until(run: RunFolder, images_seen: int) -> dict[str, bytes]:
    """What the checkpoint holds when the run is stopped there."""
    with pytest.raises(PreemptedError):
        train(run.job(), on_tick=lambda tick: tick.images_seen >= images_seen)
    newest = checkpoint.complete(run.checkpoints)[-1]
    assert newest.name.endswith(f"{images_seen:012d}"), newest
    return {place.name: place.read_bytes() for place in newest.list()}


def test_clips_train_and_resume_bit_for_bit(squares: str, tmp_path: Path):
    whole = started(job_for(squares, tmp_path, "whole"))
    expected = train_until(whole, 192)
    broken = started(job_for(squares, tmp_path, "broken"))
    train_until(broken, 64)
    found = train_until(broken, 192)
    weights = [name for name in expected if name.endswith(".safetensors")]
    assert len(weights) == 4, "the network, its optimiser, its average and its health"
    assert {name: found[name] for name in weights} == {name: expected[name] for name in weights}
    ticks = [row["losses"] for row in whole.metrics() if row["stage"] == "train"]
    assert ticks == [row["losses"] for row in broken.metrics() if row["stage"] == "train"]
    assert ticks[-1]["model/bound"] < ticks[0]["model/bound"]


def test_a_family_of_pictures_refuses_a_set_of_clips_before_it_trains(squares: str, tmp_path: Path):
    job = job_for(squares, tmp_path)
    raw = {**job.model_dump(mode="json"), "model": {"family": "vae"}, "objective": {"kind": "elbo"}}
    with pytest.raises(UsageError, match="clips of 6 frames"):
        train_here(parse(TrainJob, raw, "test"))


def test_the_default_objective_of_clips_teaches_them_to_go_on(squares: str, tmp_path: Path):
    assert job_for(squares, tmp_path).objective.kind == "clip-elbo"


def test_training_sees_whole_clips_of_the_set(squares: str):
    shard_set = open_shard_set(squares, "train")
    clips_nthwc, _ = read_samples(shard_set, np.arange(4))
    assert clips_nthwc.shape == (4, FRAMES, 16, 16, 1)
    assert torch.from_numpy(clips_nthwc).float().mean() > 10
