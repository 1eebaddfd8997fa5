"""Pictures or clips of a run: real ones once, the same latents again at every evaluation."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from distgen.core.seeding import derive
from distgen.data import ShardSet, read_samples
from distgen.metrics.animation import animate, moving_clips, moving_grid, sheet_png
from distgen.metrics.card import Card
from distgen.metrics.grid import grid_png, to_uint8_nhwc
from distgen.metrics.request import context_of
from distgen.metrics.traversal import traversal_sheet
from distgen.metrics.video import Predictor, futures_for
from distgen.models.base import Sampler
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder

ROWS, COLUMNS = 8, 10
CLIP_ROWS = 8
"""Clips of a sheet, each with its frames in a row."""
PREDICTED_CLIPS = 5


@torch.no_grad()
def write(
    run: RunFolder,
    network: nn.Module,
    shard_set: ShardSet,
    job: TrainJob,
    images_seen: int,
    device: torch.device,
    held_out: ShardSet | None = None,
) -> None:
    """Write the grid of fakes for this clock, and of reals (and their reconstructions) beside.

    Of a model of clips, sheets and GIFs; and what it predicts of clips that it has not seen.
    """
    if shard_set.spec.frames is not None:
        _write_clips(run, network, shard_set, job, images_seen, device)
        if isinstance(network, Predictor) and shard_set.spec.frames > 1:
            _write_predictions(run, network, held_out or shard_set, job, images_seen, device)
        return
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
    if card.latents is None or card.frames is not None or not isinstance(network, Sampler):
        return
    sheet = traversal_sheet(network, card.latents.groups, device=device)
    (run.samples / f"traversals-{images_seen:012d}.png").write_bytes(sheet)


def at_clock(run: RunFolder, images_seen: int) -> bytes | None:
    """The grid of fakes that was written at this clock, as PNG."""
    grid = run.samples / f"fakes-{images_seen:012d}.png"
    return grid.read_bytes() if grid.is_file() else None


def keep_nearest(run: RunFolder, png: bytes, images_seen: int) -> None:
    """Keep a sheet of generated pictures beside their nearest training pictures."""
    (run.samples / f"nearest-{images_seen:012d}.png").write_bytes(png)


def sample_grid(network: nn.Module, seed: int, count: int, device: torch.device) -> np.ndarray:
    """`count` pictures or clips, uint8 `[count, ..., H, W, C]`, by weights and seed alone.

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


def _write_clips(
    run: RunFolder,
    network: nn.Module,
    shard_set: ShardSet,
    job: TrainJob,
    images_seen: int,
    device: torch.device,
) -> None:
    frames, height, width, _ = shard_set.spec.shape
    moving = moving_clips(frames, height, width)
    count = max(moving, CLIP_ROWS)
    reals = _reals(shard_set, count, job)
    if not (run.samples / "reals.gif").is_file():
        (run.samples / "reals.png").write_bytes(sheet_png(reals[:CLIP_ROWS]))
        (run.samples / "reals.gif").write_bytes(animate(moving_grid(reals[:moving])))
    fakes = sample_grid(network, job.training.seed, count, device)
    name = f"fakes-{images_seen:012d}"
    (run.samples / f"{name}.png").write_bytes(sheet_png(fakes[:CLIP_ROWS]))
    (run.samples / f"{name}.gif").write_bytes(animate(moving_grid(fakes[:moving])))


def _write_predictions(
    run: RunFolder,
    network: Predictor,
    shard_set: ShardSet,
    job: TrainJob,
    images_seen: int,
    device: torch.device,
) -> None:
    """Clips, and below each its first frames with a prediction of the others."""
    frames, height, width, _ = shard_set.spec.shape
    context = context_of(job.evaluation, frames)
    truth = _reals(shard_set, PREDICTED_CLIPS, job)
    given = torch.from_numpy(truth[:, :context]).to(device).movedim(-1, -3).float() / 127.5 - 1.0
    normals = futures_for(job.training.seed, list(range(len(truth))), 1, network.latent_dim)
    predicted = network.predict(given, frames - context, normals[:, 0].to(device))
    again = np.concatenate([truth[:, :context], to_uint8_nhwc(predicted)], axis=1)
    pairs = np.stack([truth, again], axis=1).reshape(-1, *truth.shape[1:])
    name = f"predictions-{images_seen:012d}"
    sheet = sheet_png(pairs, context=context, together=2)
    (run.samples / f"{name}.png").write_bytes(sheet)
    moving = pairs[: 2 * max(1, moving_clips(frames, height, width) // 2)]
    (run.samples / f"{name}.gif").write_bytes(animate(moving_grid(moving, columns=len(moving))))


def _reals(shard_set: ShardSet, count: int, job: TrainJob) -> np.ndarray:
    random = np.random.default_rng(derive(job.training.seed, "reals"))
    wanted = min(count, shard_set.num_samples)
    chosen = random.choice(shard_set.num_samples, wanted, replace=False)
    return read_samples(shard_set, chosen, tolerance=job.data.tolerance)[0]
