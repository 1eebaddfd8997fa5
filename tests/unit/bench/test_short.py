from distgen.bench.short import short
from distgen.core.config import parse
from distgen.training.due import Due, look_every
from distgen.training.job import TrainJob


def job_of(**training):
    raw = {
        "name": "long",
        "storage": "runs",
        "data": {"shards": "shards/digits"},
        "model": {"family": "vae"},
        "objective": {"kind": "elbo"},
        "training": {"images": 1_000_000, "batch_size": 50, **training},
    }
    return parse(TrainJob, raw, "test")


def test_a_short_job_ends_without_checkpoints_and_cards_on_the_way():
    job = short(job_of(), name="bench", storage="/tmp/x", images=1000, log_every=100)
    dues = [Due.after(seen - 50, seen, job.training, job.health) for seen in range(50, 1001, 50)]
    assert [due.done for due in dues] == 19 * [False] + [True]
    assert [due.checkpoint for due in dues] == 19 * [False] + [True]
    assert not any(due.evaluation for due in dues)
    assert sum(due.point for due in dues) == 10
    assert (job.name, job.storage) == ("bench", "/tmp/x")


def test_it_is_looked_at_as_seldom_as_the_job_itself():
    for job in (job_of(), job_of(log_every=600)):
        measured = short(job, name="bench", storage="/tmp/x", images=1000, log_every=50)
        assert look_every(measured.training, measured.health) == look_every(
            job.training, job.health
        )
