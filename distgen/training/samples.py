"""Pictures of a run: real ones once, and the same latents again at every evaluation."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from distgen.core.seeding import derive
from distgen.data import ShardSet, read_samples
from distgen.metrics.card import Card
from distgen.metrics.grid import grid_png, to_uint8_nhwc
from distgen.metrics.traversal import traversal_sheet
from distgen.models.base import Sampler
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder

ROWS, COLUMNS = 8, 10


@torch.no_grad()
def write(
    run: RunFolder,
    network: nn.Module,
    shard_set: ShardSet,
    job: TrainJob,
    images_seen: int,
    device: torch.device,
) -> None:
    """Write the grid of fakes for this clock, and of reals (and their reconstructions) beside."""
    count = ROWS * COLUMNS
    reals_nhwc = _reals(shard_set, count, job)
    if not (run.samples / "reals.png").is_file():
        (run.samples / "reals.png").write_bytes(grid_png(reals_nhwc, columns=COLUMNS))
    fakes = sample_grid(network, job.training.seed, count, device)
    stamp = f"{images_seen:012d}.png"
    (run.samples / f"fakes-{stamp}").write_bytes(grid_png(fakes, columns=COLUMNS))
    reconstruct = getattr(network, "reconstruct", None)
    if reconstruct is not None:
        images = torch.from_numpy(reals_nhwc).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        again = to_uint8_nhwc(reconstruct(images))
        (run.samples / f"reconstructions-{stamp}").write_bytes(grid_png(again, columns=COLUMNS))


def write_traversals(
    run: RunFolder, network: nn.Module, card: Card, images_seen: int, device: torch.device
) -> None:
    """Write what single latents do, where the card says which of them hold most."""
    if card.latents is None or not isinstance(network, Sampler):
        return
    sheet = traversal_sheet(network, card.latents.groups, device=device)
    (run.samples / f"traversals-{images_seen:012d}.png").write_bytes(sheet)


def latest(run: RunFolder) -> bytes | None:
    """The newest grid of fakes as PNG."""
    grids = [place for place in run.samples.list() if place.name.startswith("fakes-")]
    return grids[-1].read_bytes() if grids else None


def sample_grid(network: nn.Module, seed: int, count: int, device: torch.device) -> np.ndarray:
    """`count` pictures, uint8 `[count, H, W, C]`, that depend on weights and seed alone.

    A conditional network shows one class in each column, in label order.
    """
    if not isinstance(network, Sampler):
        raise TypeError(f"{type(network).__name__} cannot be sampled")
    generator = torch.Generator().manual_seed(derive(seed, "sample grid"))
    latents = torch.randn(count, network.latent_dim, generator=generator).to(device)
    labels = None
    if network.num_classes:
        labels = (torch.arange(count, device=device) % COLUMNS) % network.num_classes
    return to_uint8_nhwc(network.sample(latents, labels))


def _reals(shard_set: ShardSet, count: int, job: TrainJob) -> np.ndarray:
    random = np.random.default_rng(derive(job.training.seed, "reals"))
    wanted = min(count, shard_set.num_samples)
    chosen = random.choice(shard_set.num_samples, wanted, replace=False)
    return read_samples(shard_set, chosen, tolerance=job.data.tolerance)[0]
