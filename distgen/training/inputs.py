"""What a step reads: the stream of a job's pictures, and its batches on the device."""

from __future__ import annotations

import numpy as np
import torch

from distgen.core.world import World
from distgen.data import Batch, Stream
from distgen.data.streaming.augment import augment
from distgen.data.streaming.bad import OnBad
from distgen.data.streaming.mixed import Pictures
from distgen.objectives.base import Noise, TrainBatch
from distgen.training.job import TrainingConfig, TrainJob


def open_stream(
    job: TrainJob, pictures: Pictures, world: World, images_seen: int, on_bad: OnBad
) -> Stream:
    """The job's pictures from `images_seen` on, this rank's rows of each global batch."""
    data, config = job.data, job.training
    return Stream(
        pictures,
        batch_size=config.batch_size,
        world=world,
        seed=config.seed,
        start=images_seen,
        lanes=data.lanes,
        shuffle_window=data.shuffle_window,
        decode_threads=data.decode_threads,
        prefetch_batches=data.prefetch_batches,
        cache=data.cache,
        cache_budget_mib=data.cache_budget_mib,
        cache_dir=data.cache_dir,
        cache_disk_gib=data.cache_disk_gib,
        on_error=data.on_error,
        bad_budget=data.bad_budget,
        on_bad=on_bad,
    )


def to_device(
    batch: Batch,
    job: TrainJob,
    world: World,
    device: torch.device,
    images_seen: int,
    *,
    with_labels: bool,
    noise_seed: int,
) -> TrainBatch:
    """A batch of the stream as networks take it: on the device, in [-1, 1], augmented."""
    config = job.training
    images, labels = torch.from_numpy(batch.images_nhwc), torch.from_numpy(batch.labels_n)
    if device.type == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()
    images = images.to(device, non_blocking=True)
    # NHWC bytes seen as NCHW are channels_last already.
    images = images.movedim(-1, -3).float().div_(127.5).sub_(1.0)
    positions = images_seen + np.arange(world.rank, config.batch_size, world.size)
    images = augment(images, batch.indices_n, positions, job.data.augment, config.seed)
    return TrainBatch(
        images_nchw=images,
        labels_n=labels.to(device, non_blocking=True) if with_labels else None,
        noise=Noise(noise_seed, images_seen, world, config.batch_size, device),
        images_seen=images_seen,
    )


def autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """A forward pass inside has the precision that the job asks for."""
    bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)
