"""The training loop that a careful person would write by hand, without a framework.

The same networks, pictures and labels in RAM as tensors, `DistributedDataParallel`; no checkpoints,
no curves. It knows relativistic GANs with R1 + R2 and plain latent-variable models.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from distgen.core.config import parse
from distgen.core.schedule import value_at
from distgen.core.spec import ImageSpec
from distgen.core.world import World
from distgen.models import build_networks
from distgen.models.base import LatentNoise
from distgen.training.collective import CONSTANT_BUFFERS, STRIDE_WARNING
from distgen.training.job import TrainJob
from distgen.training.optim import betas_at

OBJECTIVES = ("relativistic", "elbo")
"""What the loop knows."""

Step = Callable[[Tensor, Tensor], None]


def hand_written(
    world: World,
    raw_job: Mapping[str, Any],
    spec: ImageSpec,
    pictures_nhwc: np.ndarray,
    labels_n: np.ndarray,
    warmup: int,
    steps: int,
) -> float:
    """images/s over all ranks of `steps` steps after `warmup` steps; collective.

    Args:
        world: This rank among its peers.
        raw_job: A training job as plain data, since schedules do not travel to other processes;
            its networks, objective and optimiser count.
        spec: What the pictures are.
        pictures_nhwc: uint8 [n, H, W, C].
        labels_n: int64 [n].
        warmup: Steps before the measurement.
        steps: Steps of the measurement.
    """
    job = parse(TrainJob, raw_job, "the job")
    torch.manual_seed(0)
    networks = {
        name: network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, network in build_networks(job.model, spec).items()
    }
    data = torch.from_numpy(pictures_nhwc).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    classes = torch.from_numpy(labels_n)
    batch = job.training.batch_size // world.size
    step = _gan_step(job, networks) if job.model.family == "gan" else _elbo_step(job, networks)
    generator = torch.Generator().manual_seed(world.rank)
    started = 0.0
    for number in range(warmup + steps):
        if number == warmup:
            dist.barrier()
            started = time.perf_counter()
        picked = torch.randint(len(data), (batch,), generator=generator)
        step(data[picked], classes[picked])
    dist.barrier()
    return steps * job.training.batch_size / (time.perf_counter() - started)


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
        scores = ddp_discriminator(both, labels.repeat(2), sets=2)
        real_scores, fake_scores = scores.chunk(2)
        (gradients,) = torch.autograd.grad(scores.sum(), both, create_graph=True)
        real_norms, fake_norms = gradients.square().flatten(1).sum(1).chunk(2)
        loss = F.softplus(fake_scores - real_scores).mean()
        loss = loss + 0.5 * (r1 * real_norms.mean() + r2 * fake_norms.mean())
        for_discriminator.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        _take(for_discriminator, job)

        discriminator.requires_grad_(False)
        with torch.no_grad():
            real_scores = discriminator(real, labels)
        fake_scores = discriminator(
            ddp_generator(torch.randn(len(real), latent_dim), labels), labels
        )
        loss = F.softplus(real_scores - fake_scores).mean()
        for_generator.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        _take(for_generator, job)
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
        _take(optimizer, job)
        average.update(model)

    return step


def _ddp(network: nn.Module) -> nn.Module:
    warnings.filterwarnings("ignore", message=STRIDE_WARNING)
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


def _take(optimizer: torch.optim.Optimizer, job: TrainJob) -> None:
    if longest := job.training.max_gradient_norm:
        clip_grad_norm_(optimizer.param_groups[0]["params"], longest)
    optimizer.step()


class _Average:
    """An exponential moving average of weights, as every generator's trainer has."""

    def __init__(self, network: nn.Module) -> None:
        self._weights = [parameter.detach().clone() for parameter in network.parameters()]

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        torch._foreach_lerp_(self._weights, list(network.parameters()), weight=0.01)
