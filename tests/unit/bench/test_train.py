"""What the hand-written loop cannot do is refused before anything is measured."""

import multiprocessing

import pytest

from distgen.bench import train
from distgen.core.config import override, parse
from distgen.core.errors import DistgenError, UsageError
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
        ("scaling={workers: 2, gpus_per_worker: 1}", 640, "runs on CPUs"),
        ("training.batch_size=64", 63, "less than one batch"),
    ],
)
def test_job_that_cannot_be_compared_is_refused(change: str, images: int, said: str) -> None:
    job = parse(TrainJob, override(RAW, [change]), "a test")
    with pytest.raises(UsageError, match=said):
        train.bench_train(job, images=images)


def test_rank_that_ends_early_ends_the_measurement() -> None:
    context = multiprocessing.get_context("spawn")
    rank = context.Process(target=exit, args=(3,))
    rank.start()
    with pytest.raises(DistgenError, match="exit code 3"):
        train._first_result(context.Queue(), [rank])
