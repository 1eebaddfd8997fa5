"""Runs whose card does not improve end early, alike whether they were killed on the way."""

import pytest
import torch
from safetensors.torch import load_file

from distgen.training import checkpoint, trainer
from distgen.training.outcome import finished_outcome
from distgen.training.stopping import EarlyStopConfig
from distgen.training.trainer import train

from .test_health_runs import Killed, events, weights


def test_a_run_ends_early_when_its_card_does_not_improve_and_keeps_the_best(make_job, start):
    wish = {"early_stop": EarlyStopConfig(patience=2, min_improvement=0.9), "bundle": "best"}
    run = start(make_job("vae", evaluate_every=64, images=3_200, keep=1, **wish))
    ticks = []
    outcome = train(run.job(), on_tick=lambda tick: bool(ticks.append(tick)))
    assert outcome.images_seen == 192, "the first card and two that were no better"
    assert ticks[-1].stage == "stopped early"
    (event,) = events(run, "stopped early")
    assert event["images_seen"] == 192
    assert run.events()[-1]["event"] == "finished"
    cards = {row["images_seen"]: row["grade"]["headline"]
             for row in run.metrics() if row["stage"] == "card"}  # fmt: skip
    best = min(cards, key=cards.get)
    kept = [int(place.name) for place in checkpoint.complete(run.checkpoints)]
    assert best in kept
    assert outcome.card["images_seen"] == best
    average = load_file((run.checkpoints / f"{best:012d}" / "ema.safetensors").local)
    served = load_file(run.bundle.local / "model.safetensors")
    assert all(torch.equal(served[name], average[name]) for name in average)
    job = run.job().training
    assert run.is_finished(job.images, job.early_stop)
    assert not run.is_finished(job.images), "without the wish there is more to train"
    assert finished_outcome(run) == outcome
    assert "stopped early" in run.report.read_text()


def test_a_killed_run_ends_early_at_the_same_card(make_job, start, monkeypatch):
    wish = {"early_stop": EarlyStopConfig(patience=1, min_improvement=0.9)}

    def job(name):
        return make_job("vae", name, evaluate_every=64, images=3_200, **wish)

    whole, broken = start(job("whole")), start(job("broken"))
    expected = train(whole.job())

    def die(*_, **__):
        raise Killed

    monkeypatch.setattr(trainer, "write_ending", die)
    with pytest.raises(Killed):
        train(broken.job())
    monkeypatch.undo()
    outcome = train(broken.job())
    assert outcome.images_seen == expected.images_seen == 128
    assert weights(broken) == weights(whole)
