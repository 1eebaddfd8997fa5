"""Training speed: distgen on Ray Train workers against a hand-written DDP loop, side by side.

The loop is what a careful person would write without a framework: the same networks, pictures and
labels in RAM as tensors, `DistributedDataParallel`, no checkpoints, no curves. Both sides run in
fresh processes, in turn, with the same threads per rank, and both are timed between two points in
the middle of training, so that starting up counts for neither.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from distgen.core.errors import DistgenError, UsageError
from distgen.core.ports import free_port
from distgen.core.schedule import value_at
from distgen.core.spec import ImageSpec
from distgen.data import open_shard_set, read_samples
from distgen.metrics.card import EvaluationConfig
from distgen.models import build_networks
from distgen.models.base import LatentNoise
from distgen.training.collective import CONSTANT_BUFFERS
from distgen.training.job import TrainingConfig, TrainJob
from distgen.training.optim import betas_at
from distgen.training.run import prepare

Step = Callable[[Tensor, Tensor], None]


def bench_train(job: TrainJob, *, images: int, rounds: int = 3) -> dict[str, Any]:
    """images/s of `job` on its Ray Train workers over images/s of the hand-written loop.

    Args:
        job: A training job; its networks, batch size and workers are used on both sides. The
            hand-written loop knows relativistic GANs with R1 + R2 and plain latent-variable models.
        images: Images per measurement.
        rounds: Measurements of each side, in turn.

    Returns:
        `ratio` of the medians, both medians, and every single measurement.

    Raises:
        UsageError: The hand-written loop does not know this job's objective, or runs no GPUs.
    """
    _refuse_unknown(job, images)
    workers = max(1, job.scaling.workers)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        theirs.append(_hand_written(job, workers, images))
        ours.append(_distgen(job, workers, images))
    return {
        "ratio": statistics.median(ours) / statistics.median(theirs),
        "distgen_images_per_s": statistics.median(ours),
        "hand_written_images_per_s": statistics.median(theirs),
        "distgen_runs": ours,
        "hand_written_runs": theirs,
        "family": job.model.family,
        "workers": workers,
        "batch_size": job.training.batch_size,
        "images": images,
    }


def _refuse_unknown(job: TrainJob, images: int) -> None:
    if job.objective.kind not in ("relativistic", "elbo"):
        raise UsageError(
            f"The hand-written loop has no {job.objective.kind} objective.",
            remedy="measure with objective.kind=relativistic, or a VAE's or RVAE's job",
        )
    if job.scaling.gpus_per_worker:
        raise UsageError("The hand-written loop runs on CPUs.", remedy="scaling.gpus_per_worker=0")
    if images < job.training.batch_size:
        raise UsageError(
            f"{images} images are less than one batch of {job.training.batch_size}.",
            remedy=f"--images {100 * job.training.batch_size}",
        )


def _distgen(job: TrainJob, workers: int, images: int) -> float:
    from distgen.launch import train as launch

    batch = job.training.batch_size
    with tempfile.TemporaryDirectory() as storage:
        values = job.training.model_dump() | {
            "images": images + _warmup_images(images, batch),
            # Points of the curves about as far apart as those of a real run.
            "log_every": _warmup_images(images, batch),
            "checkpoint_every": 10 * images,
            "evaluate_every": 10 * images,
        }
        bench_job = job.model_copy(
            update={
                "name": "bench",
                "storage": storage,
                "training": TrainingConfig(**values),
                "scaling": job.scaling.model_copy(update={"workers": workers}),
                "evaluation": EvaluationConfig(samples=64, importance_samples=1),
            }
        )
        fingerprint = open_shard_set(job.data.shards, "train").fingerprint
        run = prepare(bench_job, fingerprint)
        launch.run(bench_job)
        rows = [row for row in run.metrics() if row["stage"] == "train"]
    # The last point is written before the checkpoint, not after it.
    first, last = rows[0], rows[-1]
    return float((last["images_seen"] - first["images_seen"]) / (last["time"] - first["time"]))


def _warmup_images(images: int, batch_size: int) -> int:
    """Images that are not counted, in whole batches: first steps allocate, and Ray starts up."""
    return max(2, images // 10 // batch_size) * batch_size


def _hand_written(job: TrainJob, workers: int, images: int) -> float:
    shard_set = open_shard_set(job.data.shards, "train")
    count = min(shard_set.num_samples, 20_000)
    pictures, labels = read_samples(shard_set, np.arange(count))
    context = multiprocessing.get_context("spawn")
    results: Queue[float] = context.Queue()
    port = free_port()
    ranks = [
        context.Process(
            target=_rank,
            args=(rank, workers, port, job, shard_set.spec, pictures, labels, images, results),
        )
        for rank in range(workers)
    ]
    for process in ranks:
        process.start()
    try:
        return _first_result(results, ranks)
    finally:
        for process in ranks:
            process.join(60)
            if process.is_alive():
                process.kill()


def _first_result(results: Queue[float], ranks: Sequence[BaseProcess]) -> float:
    """What rank 0 measured.

    Raises:
        DistgenError: A rank ended before.
    """
    while True:
        with contextlib.suppress(Empty):
            return results.get(timeout=1.0)
        failed = [process for process in ranks if process.exitcode]
        if failed:
            for process in ranks:
                process.kill()
            raise DistgenError(
                f"A rank of the hand-written loop ended with exit code {failed[0].exitcode}.",
                cause="its error is printed above",
            )


def _rank(
    rank: int,
    size: int,
    port: int,
    job: TrainJob,
    spec: ImageSpec,
    pictures: np.ndarray,
    labels: np.ndarray,
    images: int,
    results: Queue[float],
) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(max(1, int(job.scaling.cpus_per_worker)))
    dist.init_process_group("gloo", rank=rank, world_size=size)
    torch.manual_seed(0)
    networks = {
        name: network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, network in build_networks(job.model, spec).items()
    }
    data = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    classes = torch.from_numpy(labels)
    batch = job.training.batch_size // size
    step = _gan_step(job, networks) if job.model.family == "gan" else _elbo_step(job, networks)
    generator = torch.Generator().manual_seed(rank)
    started = 0.0
    steps = images // job.training.batch_size
    warmup = _warmup_images(images, job.training.batch_size) // job.training.batch_size
    for number in range(warmup + steps):
        if number == warmup:
            dist.barrier()
            started = time.perf_counter()
        picked = torch.randint(len(data), (batch,), generator=generator)
        step(data[picked], classes[picked])
    dist.barrier()
    if rank == 0:
        results.put(steps * job.training.batch_size / (time.perf_counter() - started))
    dist.destroy_process_group()


def _gan_step(job: TrainJob, networks: Mapping[str, nn.Module]) -> Step:
    generator, discriminator = networks["generator"], networks["discriminator"]
    ddp_generator, ddp_discriminator = _ddp(generator), _ddp(discriminator)
    for_generator, for_discriminator = _adam(generator, job), _adam(discriminator, job)
    average = _Average(generator)
    latent_dim: int = generator.latent_dim  # type: ignore[assignment]
    r1 = value_at(getattr(job.objective, "r1", 1.0), 0)
    r2 = value_at(getattr(job.objective, "r2", 1.0), 0)

    def step(real: Tensor, labels: Tensor) -> None:
        discriminator.requires_grad_(True)
        with torch.no_grad():
            fake = generator(torch.randn(len(real), latent_dim), labels)
        both = torch.cat((real, fake)).requires_grad_()
        scores = ddp_discriminator(both, labels.repeat(2))
        real_scores, fake_scores = scores.chunk(2)
        (gradients,) = torch.autograd.grad(scores.sum(), both, create_graph=True)
        real_norms, fake_norms = gradients.square().flatten(1).sum(1).chunk(2)
        loss = F.softplus(fake_scores - real_scores).mean()
        loss = loss + 0.5 * (r1 * real_norms.mean() + r2 * fake_norms.mean())
        for_discriminator.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for_discriminator.step()

        discriminator.requires_grad_(False)
        with torch.no_grad():
            real_scores = discriminator(real, labels)
        fake_scores = discriminator(
            ddp_generator(torch.randn(len(real), latent_dim), labels), labels
        )
        loss = F.softplus(real_scores - fake_scores).mean()
        for_generator.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for_generator.step()
        average.update(generator)

    return step


def _elbo_step(job: TrainJob, networks: Mapping[str, nn.Module]) -> Step:
    model = networks["model"]
    ddp_model, optimizer, average = _ddp(model), _adam(model, job), _Average(model)
    latent_dim: int = model.latent_dim  # type: ignore[assignment]

    def step(images: Tensor, _: Tensor) -> None:
        noise = LatentNoise(torch.rand_like(images), torch.randn(len(images), latent_dim))
        terms = ddp_model(images, noise)
        loss = (terms.kl_nd.sum(1) - terms.log_likelihood_n).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)

    return step


def _ddp(network: nn.Module) -> nn.Module:
    return DistributedDataParallel(network, gradient_as_bucket_view=True, **CONSTANT_BUFFERS)


def _adam(network: nn.Module, job: TrainJob) -> torch.optim.Optimizer:
    config = job.training
    return torch.optim.AdamW(
        network.parameters(),
        lr=value_at(config.learning_rate, 0),
        betas=betas_at(config, 0),
        weight_decay=config.weight_decay,
        foreach=True,
    )


class _Average:
    """An exponential moving average of weights, as every generator's trainer has."""

    def __init__(self, network: nn.Module) -> None:
        self._weights = [parameter.detach().clone() for parameter in network.parameters()]

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        torch._foreach_lerp_(self._weights, list(network.parameters()), weight=0.01)
