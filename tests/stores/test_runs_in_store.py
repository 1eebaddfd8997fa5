"""A run that lives in an object store: it trains, stops, resumes and is looked at there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from distgen.cli.main import main
from distgen.core.config import parse
from distgen.core.errors import PreemptedError
from distgen.registry.bundle import load_bundle
from distgen.training import checkpoint
from distgen.training.job import TrainJob
from distgen.training.local import train_here
from distgen.training.run import RunFolder, Tick

from .conftest import Store


@pytest.fixture
def make_job(digits: str) -> Callable[[str], TrainJob]:
    def make(storage: str) -> TrainJob:
        raw = {
            "name": "stored",
            "storage": storage,
            "data": {"shards": digits, "lanes": 4, "shuffle_window": 256},
            "model": {"family": "vae", "latent_dim": 4, "width": 8},
            "training": {
                "images": 192,
                "batch_size": 32,
                "checkpoint_every": 32,
                "evaluate_every": 1_000_000,
                "log_every": 32,
                "keep": 2,
            },
            "evaluation": {
                "samples": 64,
                "extractors": ["pixel-pca64"],
                "importance_samples": 2,
                "likelihood_images": 16,
            },
        }
        return parse(TrainJob, raw, "a test")

    return make


def stop_at(images_seen: int) -> Callable[[Tick], bool]:
    return lambda tick: tick.images_seen >= images_seen


def weights(run: RunFolder) -> dict[str, bytes]:
    newest = checkpoint.complete(run.checkpoints)[-1]
    names = (place for place in newest.list() if place.name.endswith(".safetensors"))
    return {place.name: place.read_bytes() for place in names}


def test_a_run_in_a_store_resumes_there_and_is_the_run_on_a_disk(store: Store, make_job, tmp_path):
    here, there = make_job(str(tmp_path)), make_job(store.url("resumed"))
    train_here(here)
    with pytest.raises(PreemptedError):
        train_here(there, on_tick=stop_at(96))
    run = RunFolder(there.location)
    assert [int(place.name) for place in checkpoint.complete(run.checkpoints)][-1] == 96
    train_here(there)
    assert weights(run) == weights(RunFolder(here.location))
    assert [event["event"] for event in run.events()].count("resumed") == 1
    assert run.is_finished(192)
    assert load_bundle(run.bundle).model.latent_dim == 4
    kept = [int(place.name) for place in checkpoint.complete(run.checkpoints)]
    assert kept[-1] == 192
    assert len(kept) <= 4, "the newest, and what a roll-back may need"
    assert not [place for place in run.checkpoints.list() if int(place.name) not in kept]


def test_runs_in_a_store_are_listed_shown_and_deleted(store: Store, make_job, monkeypatch, capsys):
    job = make_job(store.url("listed"))

    def distgen(*arguments: str) -> tuple[int, str]:
        command = ["distgen", "runs", *arguments, "--storage", job.storage, "--json"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().out

    assert distgen("ls") == (0, "[]\n")
    with pytest.raises(PreemptedError):
        train_here(job, on_tick=stop_at(64))
    capsys.readouterr()
    (row,) = json.loads(distgen("ls")[1])
    assert (row["name"], row["state"], row["images_seen"]) == ("stored", "stopped", 64)
    shown = json.loads(distgen("show", "stored")[1])
    assert shown["checkpoints"][-1] == 64
    events = [event["event"] for event in json.loads(distgen("events", "stored")[1])]
    assert events[0] == "started"
    assert events[-1] == "stopped"
    assert distgen("rm", "no-such-run", "--yes")[0] == 2
    assert distgen("rm", "stored", "--yes")[0] == 0
    assert distgen("ls") == (0, "[]\n")
    assert not job.location.is_dir()
