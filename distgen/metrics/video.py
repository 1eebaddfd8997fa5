"""How well the frames that follow are predicted, frame by frame, beside copying the last one."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from distgen.core.seeding import derive
from distgen.metrics.grid import to_uint8_nhwc
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import PictureSet
from distgen.metrics.scores import Part
from distgen.metrics.similarity import decibels, squared_error, ssim, summed_error

BLOCK = 8
"""Clips predicted together; equal blocks make equal bits on any ranks."""
_WAYS, _FIGURES = 5, 3  # last frame, central, single, mean, best; squared error, PSNR, SSIM


@runtime_checkable
class Predictor(Protocol):
    """A model of clips that can go on from given frames."""

    latent_dim: int
    """Standard normal numbers that a whole clip takes."""

    def predict(self, context_ntchw: Tensor, num_frames: int, normals_nd: Tensor) -> Tensor:
        """The `num_frames` frames that follow, [n, num_frames, C, H, W] in [-1, 1].

        Args:
            context_ntchw: Given frames in [-1, 1].
            num_frames: How many to predict.
            normals_nd: Standard normal numbers [n, latent_dim] that choose one of the futures.
        """
        ...


class FrameScores(Part):
    """One way to predict, over all clips; by frame, the first predicted frame first."""

    mse: float
    """Mean squared difference of pixel values from 0 to 255; lower is better."""
    mse_summed: float
    """Squared difference on a scale from 0 to 1, summed over a frame's pixels; lower is better."""
    psnr: float
    """Peak signal-to-noise ratio in dB, the mean over frames; higher is better."""
    ssim: float
    """Structural similarity (Wang et al. 2004), the mean over frames; higher is better."""
    mse_by_frame: tuple[float, ...]
    """`mse` of each frame."""
    psnr_by_frame: tuple[float, ...]
    """`psnr` of each frame."""
    ssim_by_frame: tuple[float, ...]
    """`ssim` of each frame."""


class VideoScores(Part):
    """How well a model goes on from the first frames of clips that it was not trained on."""

    context: int
    """Frames that are given."""
    predicted: int
    """Frames that follow."""
    clips: int
    """Number of clips."""
    split: str
    """Where the clips come from."""
    futures: int
    """K: predictions made of each clip."""
    last_frame: FrameScores
    """The floor: the last given frame, again and again."""
    central: FrameScores
    """The one prediction of normal numbers that are all zero: at each step the prior's middle."""
    single: FrameScores
    """One prediction, on average over the K."""
    mean: FrameScores
    """The mean of the K predictions, which blurs what is uncertain."""
    best: FrameScores
    """The best of the K predictions of each clip, by each figure for itself (Denton & Fergus 2018):
    it knows the truth, and gets better with K."""

    def figures(self) -> dict[str, float]:
        """Means over frames by a flat name, for curves and searches."""
        ways = {
            "central": self.central,
            "mean": self.mean,
            "best": self.best,
            "single": self.single,
            "last_frame": self.last_frame,
        }
        return {
            f"prediction_{figure}/{way}": getattr(scores, figure)
            for figure in ("mse_summed", "psnr", "ssim")
            for way, scores in ways.items()
        }


@torch.no_grad()
def measure(
    model: Predictor,
    chosen: PictureSet,
    *,
    context: int,
    futures: int,
    seed: int,
    device: torch.device,
    ranks: Ranks,
) -> VideoScores:
    """Scores over the chosen clips, each rank predicting its own; the same on every rank.

    Prediction k of a clip depends on (seed, the clip's index in its set, k) alone. Frames are
    rounded to 8 bits before they are scored.

    Args:
        model: In evaluation mode, on `device`.
        chosen: Clips of a set.
        context: Frames that are given, fewer than clips have.
        futures: K.
        seed: Seed of the predictions.
        device: Where the model is.
        ranks: This rank among its peers.
    """
    parts = []
    for rows in ranks.blocks(len(chosen), BLOCK, "predictions of"):
        clips_nthwc = chosen.samples(rows)
        indices = chosen.indices_n[rows.start : rows.stop].tolist()
        normals_nkd = futures_for(seed, indices, futures, model.latent_dim)
        parts.append(_compare(model, clips_nthwc, context, normals_nkd, device))
    spec = chosen.shard_set.spec
    frames, pixels = int(spec.frames or 0) - context, int(np.prod(spec.shape[1:]))
    joined = ranks.join(parts, (_WAYS, _FIGURES, frames)).astype(np.float64)
    ways = [_summary(figures_3t, pixels) for figures_3t in joined.mean(axis=0)]
    return VideoScores(
        context=context,
        predicted=frames,
        clips=len(chosen),
        split=chosen.split,
        futures=futures,
        last_frame=ways[0],
        central=ways[1],
        single=ways[2],
        mean=ways[3],
        best=ways[4],
    )


def futures_for(seed: int, indices: list[int], futures: int, latent_dim: int) -> Tensor:
    """Standard normal numbers `[n, K, latent_dim]`, row i a function of (seed, indices[i])."""
    generator = torch.Generator()
    rows = [
        torch.randn(
            futures, latent_dim, generator=generator.manual_seed(derive(seed, "prediction", index))
        )
        for index in indices
    ]
    return torch.stack(rows)


def frame_figures(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Squared error, PSNR and SSIM of frames `[n, T, H, W, C]`, float64 `[n, 3, T]`."""
    mse = squared_error(frames, truth)
    return np.stack([mse, decibels(mse), ssim(frames, truth)], axis=1)


def best_of(figures_kn3t: np.ndarray) -> np.ndarray:
    """Of K predictions of each clip the best by each figure's mean over frames, `[n, 3, T]`."""
    means_kn3 = figures_kn3t.mean(axis=-1)
    means_kn3[:, :, 0] *= -1  # an error is the better the smaller it is
    chosen_n3 = means_kn3.argmax(axis=0)
    picked: np.ndarray = np.take_along_axis(figures_kn3t, chosen_n3[None, :, :, None], axis=0)[0]
    return picked


def _compare(
    model: Predictor,
    clips_nthwc: np.ndarray,
    context: int,
    normals_nkd: Tensor,
    device: torch.device,
) -> np.ndarray:
    """Figures of every way to predict, float64 `[n, ways, 3, T]`."""
    truth = clips_nthwc[:, context:]
    pixels = torch.from_numpy(clips_nthwc[:, :context]).to(device)
    given_ntchw = (pixels.movedim(-1, -3).float() / 127.5 - 1.0).contiguous()
    total: Tensor | None = None
    each = []
    for normals_nd in normals_nkd.to(device).unbind(1):
        predicted = model.predict(given_ntchw, truth.shape[1], normals_nd.contiguous()).float()
        each.append(frame_figures(to_uint8_nhwc(predicted), truth))
        total = predicted if total is None else total + predicted
    central = model.predict(given_ntchw, truth.shape[1], torch.zeros_like(normals_nd))
    assert total is not None  # noqa: S101 - K is at least 1
    mean = to_uint8_nhwc(total / normals_nkd.shape[1])
    last = np.broadcast_to(clips_nthwc[:, context - 1 : context], truth.shape)
    figures_kn3t = np.stack(each)
    return np.stack(
        [
            frame_figures(last, truth),
            frame_figures(to_uint8_nhwc(central), truth),
            figures_kn3t.mean(axis=0),
            frame_figures(mean, truth),
            best_of(figures_kn3t),
        ],
        axis=1,
    )


def _summary(figures_3t: np.ndarray, pixels: int) -> FrameScores:
    mse, psnr, similarity = figures_3t
    return FrameScores(
        mse=float(mse.mean()),
        mse_summed=float(summed_error(mse, pixels).mean()),
        psnr=float(psnr.mean()),
        ssim=float(similarity.mean()),
        mse_by_frame=tuple(mse.tolist()),
        psnr_by_frame=tuple(psnr.tolist()),
        ssim_by_frame=tuple(similarity.tolist()),
    )
