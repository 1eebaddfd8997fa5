import numpy as np
import pytest
from PIL import Image

from distgen.core.config import parse
from distgen.core.errors import UsageError
from distgen.data.building import build
from distgen.training.job import TrainJob
from distgen.training.local import train_here
from distgen.training.run import RunFolder, Tick, prepare


def test_the_same_job_may_go_on_and_a_longer_or_wider_one_too(make_job):
    job = make_job("vae")
    prepare(job, "fingerprint")
    longer = job.model_copy(
        update={
            "training": job.training.model_copy(update={"images": 9999, "checkpoint_every": 1}),
            "scaling": job.scaling.model_copy(update={"workers": 2}),
        }
    )
    run = prepare(longer, "fingerprint")
    assert run.job() == longer


def test_a_different_job_is_refused_with_its_differences(make_job):
    job = make_job("vae", learning_rate=1e-3)
    prepare(job, "fingerprint")
    other = make_job("vae", learning_rate=2e-3)
    with pytest.raises(UsageError) as caught:
        prepare(other, "fingerprint")
    assert "training.learning_rate: 0.001 in the run, 0.002 now" in caught.value.what
    assert "images" not in caught.value.what
    assert RunFolder(job.location).job() == job, "a refusal must change nothing"


def test_other_pictures_under_the_same_path_are_refused(make_job):
    prepare(make_job("vae"), "one")
    with pytest.raises(UsageError, match=r"data\.shards"):
        prepare(make_job("vae"), "another")


def test_fresh_moves_the_old_run_aside_and_loses_nothing(make_job):
    job = make_job("vae")
    old = prepare(job, "fingerprint")
    old.event("started", 0)
    new = prepare(make_job("vae", learning_rate=0.5), "fingerprint", fresh=True)
    assert new.events() == []
    kept = [p for p in new.location.parent.list() if p.name.startswith(f"{job.name}.before-")]
    assert len(kept) == 1
    assert RunFolder(kept[0]).events()[0]["event"] == "started"


def test_logs_survive_a_line_that_was_cut_by_a_kill(make_job):
    run = prepare(make_job("vae"), "fingerprint")
    run.event("started", 0)
    with (run.location.local / "events.jsonl").open("a") as file:
        file.write('{"event": "chec')
    assert [event["event"] for event in run.events()] == ["started"]


def test_an_event_after_a_cut_line_is_not_lost(make_job):
    run = prepare(make_job("vae"), "fingerprint")
    with (run.location.local / "events.jsonl").open("a") as file:
        file.write('{"event": "chec')
    run.event("resumed", 32)
    assert [event["event"] for event in run.events()] == ["resumed"]


def test_rewinding_forgets_points_beyond_the_restored_clock(make_job):
    run = prepare(make_job("vae"), "fingerprint")
    for seen in (32, 64, 96):
        run.log(Tick("train", seen, 320))
    assert run.rewind(64) == 96
    assert [row["images_seen"] for row in run.metrics()] == [32, 64]


def test_what_is_not_a_run_is_refused(tmp_path):
    from distgen.core.storage import locate

    with pytest.raises(UsageError, match=r"no job\.yaml"):
        RunFolder(locate(tmp_path)).job()


@pytest.fixture
def odd_pictures(tmp_path) -> str:
    """A shard set of four pictures of 30x30 pixels, a size that cannot be doubled to."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for shade in range(4):
        Image.new("L", (30, 30), 60 * shade).save(folder / f"{shade}.png")
    build(str(folder), str(tmp_path / "odd-set"), split=0)
    return str(tmp_path / "odd-set")


def test_pictures_that_the_model_cannot_make_are_refused_before_there_is_a_run(
    make_job, odd_pictures
):
    job = make_job("vae")
    job = job.model_copy(update={"data": job.data.model_copy(update={"shards": odd_pictures})})
    with pytest.raises(UsageError, match="30x30"):
        train_here(job)
    assert not job.location.is_dir()


def test_figures_that_the_model_cannot_have_are_refused_before_there_is_a_run(make_job):
    job = make_job("vae")
    asked = {**job.evaluation.model_dump(), "classification": {}}
    evaluation = type(job.evaluation).model_validate(asked)
    with pytest.raises(UsageError, match=r"evaluation\.classification"):
        train_here(job.model_copy(update={"evaluation": evaluation}))
    assert not job.location.is_dir()


def test_frames_that_leave_none_to_predict_are_refused_before_there_is_a_run(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in "abcd":
        np.save(tmp_path / "videos" / f"{name}.npy", np.zeros((4, 16, 16), np.uint8))
    build(str(tmp_path / "videos"), str(tmp_path / "set"), split=0, frames=4)
    raw = {
        "name": "clips",
        "storage": str(tmp_path / "runs"),
        "data": {"shards": str(tmp_path / "set")},
        "model": {"family": "clip-rvae", "latent_dim": 2, "width": 8, "state": 8},
        "training": {"images": 8, "batch_size": 4},
        "evaluation": {"context_frames": 4},
    }
    with pytest.raises(UsageError, match=r"context_frames is 4.* 4 frames"):
        train_here(parse(TrainJob, raw, "test"))
    assert not (tmp_path / "runs").exists()


def test_too_few_pictures_to_be_measured_against_are_refused_before_there_is_a_run(
    make_job, tmp_path
):
    (tmp_path / "few").mkdir()
    for shade in range(3):
        Image.new("L", (16, 16), 60 * shade).save(tmp_path / "few" / f"{shade}.png")
    build(str(tmp_path / "few"), str(tmp_path / "few-set"), split=0)
    job = make_job("vae")
    data = job.data.model_copy(update={"shards": str(tmp_path / "few-set")})
    with pytest.raises(UsageError, match="too few pictures"):
        train_here(job.model_copy(update={"data": data}))
    assert not job.location.is_dir()


def test_networks_that_do_not_fit_into_memory_are_refused_before_they_are_built(make_job):
    job = make_job("gan")
    model = job.model.model_copy(update={"width": 8192, "blocks": 64})
    with pytest.raises(UsageError, match=r"too large(?s:.*)GiB"):
        train_here(job.model_copy(update={"model": model}))
    assert not job.location.is_dir()
