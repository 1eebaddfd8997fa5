"""A job that is run for its steps alone."""

from __future__ import annotations

from distgen.training.due import look_every
from distgen.training.job import TrainingConfig, TrainJob


def short(job: TrainJob, *, name: str, storage: str, images: int, log_every: int) -> TrainJob:
    """`job` over so many images, without checkpoints and cards on the way.

    Its health is looked at as seldom as in `job` itself: a look takes up to the time of a step, and
    would by default come with each point of the curves, of which a measurement wants many.
    """
    training = job.training.model_dump() | {
        "images": images,
        "log_every": log_every,
        "checkpoint_every": 10 * images,
        "evaluate_every": 10 * images,
    }
    looked_at = {"every": look_every(job.training, job.health)}
    return job.model_copy(
        update={
            "name": name,
            "storage": storage,
            "training": TrainingConfig(**training),
            "health": job.health.model_copy(update=looked_at),
        }
    )
