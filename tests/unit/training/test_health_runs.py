"""The ladder in real runs: skip a step, warn, roll back, give up; and none of it without a reason.

This file is also the program of one rank: `python test_health_runs.py RANK RANKS FOLDER RUN`.
"""

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import fields, replace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from distgen.core.errors import PreemptedError, TrainingError
from distgen.core.storage import locate
from distgen.core.world import World
from distgen.objectives.base import Noise
from distgen.training import checkpoint, gate, trainer
from distgen.training.ladder import Journal
from distgen.training.run import RunFolder
from distgen.training.signals import HealthConfig
from distgen.training.trainer import train

ALARMS = {"step skipped", "warning", "rolled back", "given up"}


class BadNoise(Noise):
    """Noise that is not a number."""

    def normal(self, purpose, *shape):
        return super().normal(purpose, *shape) * float("nan")


@contextmanager
def damaged_batches(when):
    """Pictures and noise are not numbers where `when(images_seen, world, is_first_attempt)`."""
    to_device = trainer.to_device

    def damage(batch, job, world, device, images_seen, *, noise_seed, **options):
        inputs = to_device(batch, job, world, device, images_seen, noise_seed=noise_seed, **options)
        if not when(images_seen, world, noise_seed == job.training.seed):
            return inputs
        # Both, for a picture that is binarised hides it.
        noise = BadNoise(**{f.name: getattr(inputs.noise, f.name) for f in fields(Noise)})
        return replace(inputs, images_nchw=inputs.images_nchw * float("nan"), noise=noise)

    trainer.to_device = damage
    try:
        yield
    finally:
        trainer.to_device = to_device


@contextmanager
def before_each_step(hook):
    """`hook(trainer)` is called before every step of every run."""
    step = trainer.Trainer.step

    def hooked(self, batch):
        hook(self)
        step(self, batch)

    trainer.Trainer.step = hooked
    try:
        yield
    finally:
        trainer.Trainer.step = step


def with_health(job, **health):
    """The job, looked at after every step where nothing else is said."""
    return job.model_copy(update={"health": HealthConfig(**{"every": 32, **health})})


def events(run, *kinds):
    return [event for event in run.events() if event["event"] in kinds]


def weights(run, *names):
    newest = checkpoint.complete(run.checkpoints)[-1].local
    files = sorted(newest.glob("*.safetensors"))
    chosen = [file for file in files if not names or file.name.startswith(names)]
    return {file.name: file.read_bytes() for file in chosen}


def all_finite(run):
    newest = checkpoint.complete(run.checkpoints)[-1].local
    files = [load_file(file) for file in newest.glob("*.safetensors")]
    return all(torch.isfinite(tensor).all() for tensors in files for tensor in tensors.values())


@pytest.mark.parametrize("family", ["gan", "vae", "rvae"])
def test_a_healthy_run_is_the_same_bit_for_bit_with_and_without_health(family, make_job, start):
    watched = start(with_health(make_job(family, "watched", evaluate_every=160)))
    unwatched = start(with_health(make_job(family, "unwatched", evaluate_every=160), enabled=False))
    for run in (watched, unwatched):
        train(run.job())
    trained = ("network", "optimizer", "ema")
    assert weights(watched, *trained) == weights(unwatched, *trained)
    assert events(watched, *ALARMS) == []
    looks = [row for row in watched.metrics() if row["stage"] == "health"]
    assert len(looks) == 10
    assert {"diversity", "distance"} <= looks[-1]["health"].keys()
    report = watched.report.read_text()
    assert "Nothing was amiss in 10 looks" in report


@pytest.mark.parametrize("family", ["gan", "vae"])
def test_a_bad_batch_costs_its_step_and_nothing_else(family, make_job, start):
    run = start(with_health(make_job(family)))
    seen = {}

    def note(one):
        state = {k: v.clone() for k, v in one.served.state_dict().items()}
        seen[one.images_seen] = state

    with damaged_batches(lambda seen, *_: seen == 96), before_each_step(note):
        outcome = train(run.job())
    assert outcome.images_seen == 320
    assert all(torch.equal(seen[128][name], tensor) for name, tensor in seen[96].items())
    assert any(not torch.equal(seen[160][name], tensor) for name, tensor in seen[96].items())
    assert all_finite(run)
    skipped = events(run, *ALARMS)
    assert {event["event"] for event in skipped} == {"step skipped"}
    assert {event["images_seen"] for event in skipped} == {128}
    assert len(skipped) == {"gan": 2, "vae": 1}[family], "each phase"
    assert all(event["value"] == 1 and event["action"] == "skipped" for event in skipped)
    points = [row for row in run.metrics() if row["stage"] == "train"]
    assert "NaN" not in (run.location / "metrics.jsonl").read_text()
    assert [bool(point["losses"]) for point in points] == [True] * 3 + [False] + [True] * 6


def test_a_run_whose_steps_fail_returns_to_gentler_settings_and_ends_well(make_job, start):
    run = start(with_health(make_job("gan"), stuck_steps=3))
    rates = {}

    def note(one):
        rates[one.settings.rollbacks] = one.settings.learning_rate_factor

    with damaged_batches(lambda seen, _, first: first and seen >= 160), before_each_step(note):
        outcome = train(run.job())
    assert outcome.images_seen == 320
    (back,) = events(run, "rolled back")
    assert back["images_seen"] == 256
    assert back["signal"] == "steps not finite"
    assert (back["value"], back["threshold"]) == (3, 3)
    assert back["to"] == 192
    assert back["learning_rate_factor"] == 0.5
    assert rates == {0: 1.0, 1: 0.5}
    newest = checkpoint.complete(run.checkpoints)[-1]
    state = (newest / "health.json").read_text()
    assert '"learning_rate_factor", 0.5' in state, "part of the checkpoint"
    assert (newest / "manifest.json").read_json()["rollbacks"] == 1
    assert all_finite(run)
    clock = [row["images_seen"] for row in run.metrics() if row["stage"] == "train"]
    assert clock == list(range(32, 321, 32)), "curves show the way that was gone in the end"
    report = run.report.read_text()
    assert "1 roll-back" in report
    assert "back to 192 images" in report


def test_the_optimisers_of_a_rolled_back_run_are_gentler(make_job, start):
    run = start(with_health(make_job("gan", learning_rate=1e-3), stuck_steps=3))
    seen = []

    def note(one):
        rate = one.optimizers["generator"].param_groups[0]["lr"]
        seen.append((one.settings.rollbacks, rate, one.objective.config.r1))

    with damaged_batches(lambda seen, _, first: first and seen >= 160), before_each_step(note):
        train(run.job())
    before, after = ([row for row in seen if row[0] == number] for number in (0, 1))
    assert before[-1] == (0, 1e-3, 1.0)
    assert after[-1] == (1, 5e-4, 2.0)


def test_a_gan_without_penalties_is_given_one_when_its_discriminator_wins(make_job, start):
    job = with_health(make_job("gan"), saturated_unpenalised=10.0)  # any loss is too small
    free = job.objective.model_copy(update={"r1": 0.0, "r2": 0.0})
    run = start(job.model_copy(update={"objective": free}))
    assert train(run.job()).images_seen == 320
    (back,) = events(run, "rolled back")
    assert back["signal"] == "discriminator saturated"
    assert back["images_seen"] == 96, "three looks in a row"
    points = [row["losses"] for row in run.metrics() if row["stage"] == "train"]
    assert all("discriminator/r1" in losses for losses in points)


def test_a_run_that_does_not_get_well_is_given_up_with_a_remedy(make_job, start):
    run = start(with_health(make_job("vae"), stuck_steps=3))
    with damaged_batches(lambda seen, *_: seen >= 128), pytest.raises(TrainingError) as caught:
        train(run.job())
    assert caught.value.exit_code == 1
    assert "learning_rate" in str(caught.value.remedy)
    assert "max_rollbacks" in str(caught.value.remedy)
    assert len(events(run, "rolled back")) == 3
    assert [event["images_seen"] for event in events(run, "given up")] == [224]
    assert len(Journal(run.location).read()) == 3
    assert all_finite(run)
    # The same command does not cure it; a further try may.
    more = start(with_health(make_job("vae"), stuck_steps=3, max_rollbacks=4))
    assert train(more.job()).images_seen == 320


def test_weights_that_overflow_are_not_kept(make_job, start):
    run = start(make_job("vae", learning_rate=1e30, checkpoint_every=32))
    with pytest.raises(TrainingError, match="given up"):
        train(run.job())
    assert {event["to"] for event in events(run, "rolled back")} == {0}
    assert checkpoint.complete(run.checkpoints) == []


def whiten(one):
    """The generator forgets all and draws white, in the first attempt, from some clock on."""
    if one.settings.rollbacks == 0 and one.images_seen >= 448:
        with torch.no_grad():
            for name, weight in one.served.named_parameters():
                weight.fill_(3.0 if name.endswith("bias") else 0.0)


def test_pictures_that_become_all_the_same_lead_back_to_before_they_did(make_job, start):
    run = start(with_health(make_job("gan", images=640)))
    with before_each_step(whiten):
        assert train(run.job()).images_seen == 640
    (back,) = events(run, "rolled back")
    assert back["signal"] == "mode collapse"
    assert back["images_seen"] == 480 + 64, "three looks in a row"
    assert back["to"] == 384, "the checkpoint at 480 was made when they were so already"
    marks = [e.get("healthy", True) for e in events(run, "checkpoint") if e["images_seen"] == 480]
    assert marks == [False, True], "the second time all was well"


def test_while_one_network_stands_still_the_other_waits_for_it(make_job, start, monkeypatch):
    run = start(with_health(make_job("gan", images=448)))
    weights_at = {}
    step_if = gate.step_if

    def note(one):
        frozen.clear()
        if 128 <= one.images_seen < 288:
            frozen.append(one.optimizers["discriminator"])
        weights_at[one.images_seen] = {k: v.clone() for k, v in one.served.state_dict().items()}

    frozen = []

    def stuck(optimizer, allowed):
        if optimizer not in frozen:
            step_if(optimizer, allowed)

    monkeypatch.setattr(gate, "step_if", stuck)
    with before_each_step(note):
        assert train(run.job()).images_seen == 448

    def moved(before, after):
        pairs = zip(weights_at[before].values(), weights_at[after].values(), strict=True)
        return any(not torch.equal(*pair) for pair in pairs)

    assert moved(128, 160), "the first look is after this step"
    assert not moved(160, 320)
    assert moved(320, 352), "the discriminator has moved again"
    (told,) = events(run, *ALARMS)
    assert told["signal"] == "network stands still: discriminator"
    assert told["action"] == "warned; others wait"
    assert told["images_seen"] == 224


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.mark.parametrize("moment", ["before", "noticing", "rolling back", "after"])
def test_a_kill_anywhere_on_the_ladder_changes_nothing(moment, make_job, start, monkeypatch):
    def job(name):
        return with_health(make_job("gan", name), stuck_steps=3)

    def bad(seen, _, first):
        return first and seen >= 160

    whole = start(job("whole"))
    with damaged_batches(bad):
        train(whole.job())
    broken = start(job("broken"))
    if moment == "rolling back":
        add = Journal.add

        def add_and_die(self, row):
            add(self, row)
            raise Killed

        monkeypatch.setattr(Journal, "add", add_and_die)
        with damaged_batches(bad), pytest.raises(Killed):
            train(broken.job())
        monkeypatch.undo()
        # The checkpoint that the roll-back left behind is still there, and must not be used.
        names = [place.name for place in checkpoint.complete(broken.checkpoints)]
        assert int(names[-1]) == 192
    else:
        clock, attempt = {"before": (64, 0), "noticing": (224, 0), "after": (288, 1)}[moment]

        def die(one):
            if (one.images_seen, one.settings.rollbacks) == (clock, attempt):
                raise Killed

        with damaged_batches(bad), before_each_step(die), pytest.raises(Killed):
            train(broken.job())
    with damaged_batches(bad):
        train(broken.job())
    assert weights(broken) == weights(whole)
    states = [
        (checkpoint.complete(run.checkpoints)[-1] / "health.json").read_bytes()
        for run in (whole, broken)
    ]
    assert states[0] == states[1], "what is remembered of its health, too"


def test_a_stop_in_the_middle_of_an_interval_changes_no_verdict(make_job, start, monkeypatch):
    """Sums since the last look are kept, and no roll-back leads to where a stop was."""
    monkeypatch.setattr(trainer, "LOOK_EVERY_S", 0.0)

    def job(name):
        return with_health(make_job("gan", name, log_every=160), stuck_steps=2, every=64)

    def bad(seen, _, first):
        return first and seen >= 224

    whole, broken = start(job("whole")), start(job("broken"))
    with damaged_batches(bad):
        train(whole.job())
        for clock in (32, 96, 224):
            with pytest.raises(PreemptedError):
                train(broken.job(), on_tick=lambda tick, at=clock: tick.images_seen >= at)
        train(broken.job())
    assert weights(broken) == weights(whole)
    assert [e["to"] for e in events(broken, "rolled back")] == [
        e["to"] for e in events(whole, "rolled back")
    ]


def be_a_rank(rank: int, size: int, folder: str, place: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)

    def bad(seen, world, first):
        return world.rank == 1 and (seen == 64 or (first and seen >= 160))

    with damaged_batches(bad):
        train(RunFolder(locate(place)).job(), world=World(rank, size))
    dist.destroy_process_group()


def test_two_ranks_take_every_rung_together(make_job, start, tmp_path):
    run = start(with_health(make_job("gan"), stuck_steps=3))
    command = [sys.executable, __file__]
    rest = ["2", str(tmp_path), run.location.url]
    ranks = [subprocess.Popen([*command, str(rank), *rest]) for rank in range(2)]
    assert [rank.wait(300) for rank in ranks] == [0, 0]
    assert [event["to"] for event in events(run, "rolled back")] == [192]
    skipped = events(run, "step skipped")
    assert [e["images_seen"] for e in skipped][:2] == [96, 96], "one rank's picture, both phases"
    assert {event["value"] for event in skipped[:2]} == {1}
    assert run.events()[-1]["event"] == "finished"
    assert all_finite(run)


def test_a_kept_checkpoint_says_whether_one_may_return_to_it(make_job, start):
    run = start(make_job("vae"))
    with pytest.raises(PreemptedError):
        train(run.job(), on_tick=lambda tick: tick.images_seen >= 128)
    healthy = {
        manifest.images_seen: manifest.healthy for manifest in checkpoint.manifests(run.checkpoints)
    }
    assert healthy == {96: True, 128: False}, "no roll-back leads to where a stop was"


if __name__ == "__main__":
    be_a_rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
