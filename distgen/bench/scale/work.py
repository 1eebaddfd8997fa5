"""What a job asks of a cluster, read from its networks and from its shard set's manifest."""

from __future__ import annotations

import math
from collections.abc import Callable

from distgen.bench.scale.predict import Work
from distgen.core.errors import UsageError
from distgen.data import ShardSet
from distgen.data.plan import Workload, reads
from distgen.data.streaming.mixed import Pictures
from distgen.models import FAMILIES
from distgen.training.job import TrainJob
from distgen.training.sizes import checkpoint_bytes, sums_of_step


def work_of(job: TrainJob, pictures: Pictures) -> Work:
    """The sizes of a job.

    Args:
        job: A training job.
        pictures: What it trains on.
    """
    config = job.training
    return Work(
        batch_size=config.batch_size,
        images=config.images,
        sums=sums_of_step(job, pictures.spec),
        unit=FAMILIES[job.model.family].rows_together(job.model) * config.accumulate,
        accumulate=config.accumulate,
        image_bytes=_set_bytes(pictures) / pictures.num_samples,
        cached=_is_kept(job, pictures),
        checkpoint_bytes=checkpoint_bytes(job, pictures.spec),
        checkpoint_every=config.checkpoint_every,
    )


def reads_too_much(job: TrainJob, pictures: Pictures, batch_size: int) -> Callable[[int], float]:
    """Bytes that some ranks read for each byte that they use, by their number.

    Of a mix it is 1: its sets take turns, and each may lie elsewhere.
    """

    def amplification(ranks: int) -> float:
        if not isinstance(pictures, ShardSet):
            return 1.0
        workload = Workload(
            samples=pictures.num_samples,
            shards=len(pictures.manifest.shards),
            ranks=ranks,
            sample_bytes=max(1, _set_bytes(pictures) // pictures.num_samples),
            batch_size=batch_size,
            lanes=job.data.lanes,
            shuffle_window=job.data.shuffle_window,
        )
        # What is read for nothing is read again only where it is far from what is used.
        return max(1.0, reads(workload).amplification)

    return amplification


def refuse_workers(counts: list[int]) -> None:
    """Refuse what is no list of numbers of workers.

    Raises:
        UsageError: It is empty, or a number is not positive.
    """
    wrong = [count for count in counts if count < 1]
    if wrong or not counts:
        named = f"{wrong[0]} workers train nothing" if wrong else "No number of workers was given"
        raise UsageError(f"{named}.", where="--workers", remedy="--workers 8,64,512")


def _set_bytes(pictures: Pictures) -> int:
    sets = (pictures,) if isinstance(pictures, ShardSet) else pictures.sets
    return sum(shard.bytes for each in sets for shard in each.manifest.shards)


def _is_kept(job: TrainJob, pictures: Pictures) -> bool:
    """Whether hosts keep all pictures after the first epoch."""
    data = job.data
    if data.cache == "disk":
        return _set_bytes(pictures) <= data.cache_disk_gib * 2**30
    decoded = pictures.num_samples * math.prod(pictures.spec.shape)
    return data.cache in ("auto", "memory") and decoded <= data.cache_budget_mib * 2**20
