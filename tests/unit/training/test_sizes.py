"""What a step sums over ranks, and what a checkpoint takes, held against the real things."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from distgen.core.config import parse
from distgen.core.spec import ImageSpec
from distgen.core.storage import locate
from distgen.core.world import World
from distgen.models import FAMILIES, build_networks
from distgen.objectives import Noise, TrainBatch, build_objective
from distgen.training import checkpoint
from distgen.training.collective import CONSTANT_BUFFERS
from distgen.training.ema import EMA
from distgen.training.job import TrainJob
from distgen.training.optim import build_optimizers, train_only
from distgen.training.sizes import (
    BUCKET_BYTES,
    FIRST_BUCKET_BYTES,
    bucket_sizes,
    checkpoint_bytes,
    sums_of_step,
)

SPEC = ImageSpec(height=16, width=16, mode="L", classes=("a", "b"))
MODELS = {
    "gan": {"family": "gan", "latent_dim": 8, "width": 112, "conditional": True},
    "vae": {"family": "vae", "latent_dim": 8, "width": 160},
    "hvae": {"family": "hvae"},
    "rvae": {"family": "rvae", "latent_dim": 8, "width": 256},
}


def job_of(family: str) -> TrainJob:
    raw = {
        "name": "sized",
        "data": {"shards": "nowhere"},
        "model": MODELS[family],
        "training": {"images": 1000, "batch_size": 4},
    }
    return parse(TrainJob, raw, "a test")


@pytest.fixture
def one_rank(tmp_path):
    """A process group of this process alone."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{tmp_path}/meeting",
        rank=0,
        world_size=1,
        timeout=timedelta(seconds=60),
    )
    yield
    dist.destroy_process_group()


@given(st.lists(st.integers(1, 8_000_000), min_size=1, max_size=20))
def test_buckets_are_those_of_torch(numbers):
    with torch.device("meta"):
        tensors = [torch.empty(number) for number in numbers]
    limits = [dist._DEFAULT_FIRST_BUCKET_BYTES, BUCKET_BYTES]
    assert limits[0] == FIRST_BUCKET_BYTES
    groups, _ = dist._compute_bucket_assignment_by_size(tensors, limits, [False] * len(tensors))
    theirs = [sum(4 * numbers[index] for index in group) for group in groups]
    assert bucket_sizes([4 * number for number in numbers]) == theirs


@pytest.mark.parametrize("family", MODELS)
def test_the_sums_of_a_step_are_those_that_ranks_make(family, one_rank):
    job = job_of(family)
    networks = build_networks(job.model, SPEC)
    served = networks[FAMILIES[family].served]
    groups = getattr(served, "latent_groups", ())
    objective = build_objective(job.objective, family, int(served.latent_dim), groups)
    summed: list[int] = []

    def hook(bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        summed.append(bucket.buffer().nbytes)
        return allreduce_hook(None, bucket)

    replicas = {
        name: DistributedDataParallel(network, gradient_as_bucket_view=True, **CONSTANT_BUFFERS)
        for name, network in networks.items()
    }
    for replica in replicas.values():
        # torch reads the annotations of hooks, and wants them to be types.
        replica.register_comm_hook(None, lambda _, bucket: hook(bucket))
    expected = sums_of_step(job, SPEC)
    assert [sums.phase for sums in expected] == [phase.name for phase in objective.phases]
    for step in range(3):  # the first fills buckets by another rule
        for phase, sums in zip(objective.phases, expected, strict=True):
            train_only(networks, phase.networks)
            chosen = {n: (replicas if n in phase.networks else networks)[n] for n in networks}
            noise = Noise(0, step, World(), 4, torch.device("cpu"))
            batch = TrainBatch(torch.zeros(4, 1, 16, 16), torch.tensor([0, 1, 0, 1]), noise, step)
            summed.clear()
            objective.loss(phase, chosen, batch)[0].backward()
            assert sum(summed) == sums.bytes
            if step:
                assert len(summed) == len(sums.buckets)
    assert any(len(sums.buckets) > 1 for sums in expected), "the test is of more than one bucket"


@pytest.mark.parametrize("family", MODELS)
def test_a_checkpoint_is_as_large_as_said(family, tmp_path):
    job = job_of(family)
    networks = build_networks(job.model, SPEC)
    served = networks[FAMILIES[family].served]
    objective = build_objective(
        job.objective, family, int(served.latent_dim), getattr(served, "latent_groups", ())
    )
    optimizers = build_optimizers(objective.phases, networks, job.training)
    for network in networks.values():
        for weight in network.parameters():
            weight.grad = torch.zeros_like(weight)
    for optimizer in optimizers.values():
        optimizer.step()
    parts = {**networks, "ema": EMA(served, 1000.0)}
    parts |= {f"optimizer-{name}": optimizer for name, optimizer in optimizers.items()}
    folder = checkpoint.save(locate(tmp_path), 4, parts)
    size = sum(file.size() for file in folder.list() if file.name.endswith(".safetensors"))
    # Names, shapes and step counts are a little more.
    assert checkpoint_bytes(job, SPEC) <= size <= 1.02 * checkpoint_bytes(job, SPEC)
