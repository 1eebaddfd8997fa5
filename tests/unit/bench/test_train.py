"""What the hand-written loop cannot do is refused before anything is measured."""

import pytest

from distgen.bench import train
from distgen.cli.bench import jobs_and_overrides
from distgen.core.config import override, parse
from distgen.core.errors import UsageError
from distgen.training.job import TrainJob

RAW = {
    "name": "bench",
    "data": {"shards": "nowhere"},
    "model": {"family": "gan"},
    "training": {"images": 1000, "batch_size": 64},
}


@pytest.mark.parametrize(
    ("change", "images", "said"),
    [
        ("objective={kind: hinge}", 640, "no hinge objective"),
        ("objective={kind: relativistic, augmentation: {}}", 640, "changes no pictures"),
        ("training.accumulate=2", 640, "takes whole steps"),
        ("scaling={workers: 2, gpus_per_worker: 1}", 640, "runs on CPUs"),
        ("training.batch_size=64", 63, "less than one batch"),
    ],
)
def test_job_that_cannot_be_compared_is_refused(change: str, images: int, said: str) -> None:
    job = parse(TrainJob, override(RAW, [change]), "a test")
    with pytest.raises(UsageError, match=said):
        train.bench_train(job, images=images)


def test_the_lowest_ratio_of_all_families_comes_first(monkeypatch) -> None:
    ratios = {"gan": 1.1, "vae": 0.9}

    def measured(job: TrainJob, **_: int) -> dict[str, float]:
        return {"ratio": ratios[job.model.family]}

    monkeypatch.setattr(train, "bench_train", measured)
    jobs = [
        parse(TrainJob, override(RAW, [f"model.family={family}"]), "a test") for family in ratios
    ]
    assert train.bench_families(jobs, images=640) == {
        "ratio": 0.9,
        "gan": {"ratio": 1.1},
        "vae": {"ratio": 0.9},
    }


def test_without_a_job_every_family_is_measured() -> None:
    everything = list(train.FAMILY_JOBS.values())
    assert jobs_and_overrides(["scaling.workers=1"], None) == (everything, ["scaling.workers=1"])
    assert jobs_and_overrides([], "vae") == ([train.FAMILY_JOBS["vae"]], [])
    assert jobs_and_overrides(["a.yaml", "x=1"], None) == (["a.yaml"], ["x=1"])
    for arguments, family in ((["a.yaml", "b.yaml"], None), (["a.yaml"], "vae"), ([], "diffusion")):
        with pytest.raises(UsageError):
            jobs_and_overrides(arguments, family)


def test_the_hand_written_loop_takes_what_the_job_files_have(digits: str) -> None:
    job = parse(
        TrainJob,
        override(
            RAW,
            [
                f"data.shards={digits}",
                "model.width=8",
                "training.betas=[0.0, {start: 0.9, end: 0.99, images: 100}]",
                "training.learning_rate={start: 0.001, end: 0.0001, images: 100}",
                "objective={kind: relativistic, r1: {start: 2.0, end: 0.2, images: 100}}",
            ],
        ),
        "a test",
    )
    assert train._hand_written(job, 2, 128) > 0
