"""The loop on real pictures, in one process: resume, stop, divergence, and what a run leaves."""

import io
import time
from threading import current_thread

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from distgen.core.config import parse
from distgen.core.errors import DataError, PreemptedError, TrainingError
from distgen.core.storage import locate
from distgen.data import open_shard_set
from distgen.data.building import build
from distgen.data.config import AugmentConfig, MixEntry, open_data
from distgen.data.streaming.augment import augment
from distgen.data.view import FilterConfig
from distgen.metrics.memorisation import MemorisationConfig
from distgen.registry.bundle import load_bundle
from distgen.training import checkpoint, inputs, trainer
from distgen.training.collective import Collective
from distgen.training.due import crossed
from distgen.training.job import TrainJob
from distgen.training.outcome import finished_outcome
from distgen.training.run import Tick, prepare
from distgen.training.signals import HealthConfig
from distgen.training.snapshot import Snapshot
from distgen.training.trainer import train

FAMILIES = ("gan", "vae", "hvae", "rvae")
AUGMENTATION = "augmentation.safetensors"


class StopAt:
    """Asks for a stop once the clock has reached a number of images."""

    def __init__(self, images_seen: int) -> None:
        self.images_seen = images_seen

    def __call__(self, tick: Tick) -> bool:
        return tick.images_seen >= self.images_seen


def weights(run) -> dict[str, bytes]:
    newest = checkpoint.complete(run.checkpoints)[-1]
    return {
        place.name: place.read_bytes()
        for place in newest.list()
        if place.name.endswith(".safetensors")
    }


def test_ranks_that_find_different_checkpoints_do_not_train_together(make_job, start, monkeypatch):
    run = start(make_job("vae"))
    # As on a node whose disk is not that of rank 0, which has a checkpoint.
    monkeypatch.setattr(Collective, "agree", lambda *_: 96)
    with pytest.raises(DataError, match="from 0 images, rank 0 from 96") as caught:
        train(run.job())
    assert "share" in str(caught.value.remedy)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stop_at", [32, 160])
def test_resume_equals_uninterrupted(family, stop_at, make_job, start):
    whole = start(make_job(family, "whole"))
    train(whole.job())
    broken = start(make_job(family, "broken"))
    with pytest.raises(PreemptedError) as caught:
        train(broken.job(), on_tick=StopAt(stop_at))
    assert caught.value.exit_code == 75
    train(broken.job())
    assert weights(broken) == weights(whole)
    losses = [[row["losses"] for row in r.metrics() if row["stage"] == "train"]
              for r in (whole, broken)]  # fmt: skip
    assert losses[0] == losses[1], "the curves of a resumed run must be those of a whole one"


def test_a_slow_copy_of_a_checkpoint_holds_no_later_step(make_job, start, monkeypatch):
    quick = start(make_job("gan", "quick", keep=9))
    train(quick.job())
    copied = Snapshot.copy_lent

    def slow(snapshot: Snapshot) -> None:
        if current_thread().name == "distgen-checkpoint":
            time.sleep(0.3)  # several steps
        copied(snapshot)

    monkeypatch.setattr(Snapshot, "copy_lent", slow)
    late = start(make_job("gan", "late", keep=9))
    train(late.job())
    for one, other in zip(
        *(checkpoint.manifests(r.checkpoints) for r in (quick, late)), strict=True
    ):
        assert one.files == other.files


def test_augmented_pictures_are_the_same_after_a_resume(make_job, start):
    def augmented(name):
        job = make_job("vae", name)
        config = AugmentConfig(flip=0.5, shift=1, rotate=10, brightness=0.1)
        return job.model_copy(update={"data": job.data.model_copy(update={"augment": config})})

    plain, whole = start(make_job("vae", "plain")), start(augmented("whole"))
    train(plain.job())
    train(whole.job())
    broken = start(augmented("broken"))
    with pytest.raises(PreemptedError):
        train(broken.job(), on_tick=StopAt(160))
    train(broken.job())
    assert weights(broken) == weights(whole)
    assert weights(whole) != weights(plain)


def test_everything_that_a_gan_can_be_told_is_the_same_after_a_resume(make_job, start):
    def told(name):
        raw = make_job("gan", name, accumulate=2).model_dump(mode="json")
        raw["model"] |= {"network": "residual", "minibatch_deviation": True}
        # From 0.4 it rises all the time: the discriminator is surer of itself than this.
        raw["objective"]["augmentation"] = {"probability": 0.4, "target": -0.9, "ramp_images": 1000}
        raw["objective"] |= {"r1": moving(2.0, 0.1), "r2": moving(0.1, 1.0)}
        raw["training"] |= {"learning_rate": moving(1e-3, 1e-4), "ema_half_life": moving(10, 90)}
        raw["training"] |= {"betas": [0.0, moving(0.9, 0.99)], "max_gradient_norm": 0.01}
        return parse(TrainJob, raw, "test")

    def moving(start, end):
        return {"start": start, "end": end, "images": 200}

    whole, broken = start(told("whole")), start(told("broken"))
    train(whole.job())
    with pytest.raises(PreemptedError):
        train(broken.job(), on_tick=StopAt(160))
    halfway = load_file(checkpoint.complete(broken.checkpoints)[-1].local / AUGMENTATION)
    train(broken.job())
    assert weights(broken) == weights(whole)
    found = load_file(checkpoint.complete(whole.checkpoints)[-1].local / AUGMENTATION)
    assert found.keys() == {"probability", "sign"}
    assert 0.4 < halfway["probability"] < found["probability"]


def test_long_gradients_are_shortened_and_their_length_is_drawn(make_job, start):
    plain, short = start(make_job("vae", "plain")), start(make_job("vae", max_gradient_norm=1e-9))
    for run in (plain, short):
        train(run.job())
    # So short that to Adam, which divides by their size, they are hardly more than nothing.
    first, last = (
        [row["losses"] for row in run.metrics() if row["stage"] == "train"][-1]
        for run in (plain, short)
    )
    assert "model/gradient_norm" not in first
    assert last["model/gradient_norm"] > 1
    assert last["model/loss"] > first["model/loss"]


def test_without_augmentation_a_checkpoint_has_no_part_for_it(make_job, start):
    run = start(make_job("gan"))
    train(run.job())
    parts = {name.partition(".")[0] for name in weights(run)}
    assert parts == {
        "network-generator", "network-discriminator", "optimizer-generator",
        "optimizer-discriminator", "ema", "health",
    }  # fmt: skip


def test_a_mix_of_sets_trains_resumes_and_is_measured_against_the_first(
    make_job, start, tmp_path, digits, monkeypatch
):
    build("digits", tmp_path / "lossy", encoding="jpg", quality=30)

    def mixed(name):
        job = make_job("vae", name)
        entries = (MixEntry(shards=digits, weight=3), MixEntry(shards=str(tmp_path / "lossy")))
        data = job.data.model_copy(update={"mix": entries, "balance": "classes"})
        return job.model_copy(update={"data": data})

    labels, step = [], trainer.Trainer.step

    def noted(self, batch):
        labels.extend(batch.labels_n.tolist())
        step(self, batch)

    monkeypatch.setattr(trainer.Trainer, "step", noted)
    job = mixed("whole")
    whole = prepare(job, open_data(job.data).fingerprint)
    train(whole.job())
    assert {labels.count(label) for label in range(10)} == {32}, "320 images of ten classes"
    card = whole.card.read_json()
    assert card["data"]["fingerprint"] == open_shard_set(digits, "train").fingerprint
    broken = prepare(mixed("broken"), open_data(job.data).fingerprint)
    with pytest.raises(PreemptedError):
        train(broken.job(), on_tick=StopAt(160))
    train(broken.job())
    assert weights(broken) == weights(whole)
    plain = start(make_job("vae", "plain"))
    train(plain.job())
    assert weights(whole) != weights(plain)


def test_each_picture_changes_by_its_position_whatever_part_of_a_set_is_read(
    make_job, start, monkeypatch
):
    job = make_job("vae", images=192)
    config = AugmentConfig(flip=0.5)
    one_class = FilterConfig(classes=("3",))
    data = job.data.model_copy(update={"augment": config, "filter": one_class})
    positions = []

    def noted(images, samples, positions_n, *rest):
        positions.extend(positions_n.tolist())
        return augment(images, samples, positions_n, *rest)

    monkeypatch.setattr(inputs, "augment", noted)
    train(start(job.model_copy(update={"data": data})).job())
    # Some 140 samples are read again within 192, and must not look as they did before.
    assert positions == list(range(192))


def test_a_long_run_hears_of_a_stop_long_before_its_next_point(make_job, start, monkeypatch):
    monkeypatch.setattr(trainer, "LOOK_EVERY_S", 0.0)
    whole = start(make_job("vae", "whole", log_every=320))
    heard = []
    train(whole.job(), on_tick=lambda tick: bool(heard.append(tick.images_seen)))
    assert len(set(heard)) == 10, "each step was looked at"
    assert [row["images_seen"] for row in whole.metrics() if row["stage"] == "train"][-1] == 320

    broken = start(make_job("vae", "broken", log_every=320))
    with pytest.raises(PreemptedError):
        train(broken.job(), on_tick=StopAt(64))
    assert broken.metrics()[-1]["images_seen"] == 64, "where it stopped, the curves have a point"
    train(broken.job())
    assert weights(broken) == weights(whole)


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_stop_at_an_evaluation_costs_no_card(stage, make_job, start):
    run = start(make_job("vae", evaluate_every=160))

    def stop(tick: Tick) -> bool:
        return tick.stage == stage and tick.images_seen == 160

    with pytest.raises(PreemptedError, match="160 of 320"):
        train(run.job(), on_tick=stop)
    train(run.job())
    cards = [row["images_seen"] for row in run.metrics() if row["stage"] == "card"]
    assert cards == [160, 320]


def test_what_takes_minutes_is_on_the_last_card_only(make_job, start):
    job = make_job("vae", evaluate_every=160)
    asked = job.evaluation.model_copy(update={"memorisation": MemorisationConfig()})
    run = start(job.model_copy(update={"evaluation": asked}))
    train(run.job())
    first, last = (row["card"] for row in run.metrics() if row["stage"] == "card")
    assert "copies" in last
    assert "copies" not in first
    sheets = [p.name for p in run.samples.list() if p.name.startswith("nearest")]
    assert sheets == ["nearest-000000000320.png"]
    assert "training pictures nearest" in run.report.read_text()


def test_two_seeds_give_two_models(make_job, start):
    runs = [start(make_job("vae", f"s{seed}", seed=seed)) for seed in (0, 1)]
    for run in runs:
        train(run.job())
    assert weights(runs[0]) != weights(runs[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_finished_run_leaves_all_that_it_promises(family, make_job, start):
    run = start(make_job(family, evaluate_every=160))
    outcome = train(run.job())
    names = {place.name for place in run.location.list()}
    assert names >= {
        "job.yaml", "env.json", "events.jsonl", "metrics.jsonl", "card.json", "report.html",
        "checkpoints", "samples", "tensorboard", "bundle",
    }  # fmt: skip
    for name in ("reals.png", "fakes-000000000160.png", "fakes-000000000320.png"):
        Image.open(io.BytesIO((run.samples / name).read_bytes())).verify()
    told = [(e["event"], e["images_seen"]) for e in run.events()]
    # Checkpoints are written meanwhile, and told of when they are complete.
    assert [event for event in told if event[0] == "checkpoint"] == [
        ("checkpoint", seen) for seen in (96, 160, 192, 288, 320)
    ]
    assert [event for event in told if event[0] != "checkpoint"] == [
        ("started", 0), ("evaluated", 160), ("evaluated", 320), ("finished", 320),
    ]  # fmt: skip
    assert told[-1][0] == "finished"
    kept = [int(place.name) for place in checkpoint.complete(run.checkpoints)]
    assert kept == [160, 288, 320], "the two newest, and that of the best card so far"
    assert run.is_finished(320)
    assert not run.is_finished(321)
    assert finished_outcome(run) == outcome
    assert load_bundle(run.bundle).digest == outcome.digest
    report = run.report.read_text()
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert "data:image/png;base64," in report


def test_a_run_shows_what_the_latents_of_each_group_hold(make_job, start):
    run = start(make_job("hvae"))
    train(run.job())
    sheet = Image.open(io.BytesIO((run.samples / "traversals-000000000320.png").read_bytes()))
    sheet.verify()
    latents = run.card.read_json()["latents"]
    assert [group["size"] for group in latents["groups"]] == [4, 4 * 4 * 4, 2 * 8 * 8]
    point = [row for row in run.metrics() if row["stage"] == "train"][-1]["losses"]
    by_group = [point[f"model/kl_group_{number}"] for number in (1, 2, 3)]
    assert sum(by_group) == pytest.approx(point["model/kl"], rel=1e-5)
    report, readme = run.report.read_text(), (run.bundle / "README.md").read_text()
    assert "<h2>Latents</h2>" in report
    assert "## Latents" in readme
    for group in latents["groups"]:
        assert f"{group['kl_nats']:.2f}" in report
        assert f"{group['kl_nats']:.2f}" in readme


def test_the_bundle_holds_the_average_not_the_last_weights(make_job, start):
    run = start(make_job("vae"))
    train(run.job())
    newest = checkpoint.complete(run.checkpoints)[-1].local
    average = load_file(newest / "ema.safetensors")
    last = load_file(newest / "network-model.safetensors")
    served = load_file(run.bundle.local / "model.safetensors")
    assert all(torch.equal(served[name], average[name]) for name in average)
    assert any(not torch.equal(served[name], last[name]) for name in last)


def test_a_loss_that_is_not_finite_stops_an_unwatched_run_and_keeps_the_last_good_checkpoint(
    make_job, start
):
    job = make_job("vae", learning_rate=1e18, checkpoint_every=32, log_every=32)
    run = start(job.model_copy(update={"health": HealthConfig(enabled=False)}))
    with pytest.raises(TrainingError) as caught:
        train(run.job())
    assert "not finite" in caught.value.what
    assert "learning_rate" in str(caught.value)
    assert run.events()[-1]["event"] == "diverged"
    for place in checkpoint.complete(run.checkpoints):
        for name in ("network-model", "ema"):
            tensors = load_file(place.local / f"{name}.safetensors")
            assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_a_damaged_checkpoint_costs_one_interval_and_is_told(make_job, start):
    whole = start(make_job("vae", "whole"))
    train(whole.job())
    run = start(make_job("vae", "damaged"))
    with pytest.raises(PreemptedError):
        train(run.job(), on_tick=StopAt(224))
    newest = checkpoint.complete(run.checkpoints)[-1] / "ema.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    train(run.job())
    assert "damaged checkpoint skipped" in [event["event"] for event in run.events()]
    assert weights(run) == weights(whole)


def test_a_longer_job_goes_on_from_a_finished_run(make_job, start):
    run = start(make_job("vae", images=160))
    train(run.job())
    longer = start(make_job("vae", images=320))
    outcome = train(longer.job())
    assert outcome.images_seen == 320
    whole = start(make_job("vae", "whole", images=320))
    train(whole.job())
    assert weights(longer) == weights(whole)


def test_intervals_fire_once_however_the_steps_fall():
    clock = [(seen, seen + 48) for seen in range(0, 960, 48)]
    fired = [after for before, after in clock if crossed(before, after, 100)]
    assert len(fired) == 960 // 100
    assert all(after % 100 < 48 for after in fired)


def test_what_is_not_in_the_storage_is_not_made_up(tmp_path):
    assert checkpoint.complete(locate(tmp_path) / "no-run") == []
