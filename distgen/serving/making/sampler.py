"""Pictures as a pure function of (weights, seed, class, controls), whatever shares their batch.

A model of clips makes a clip where others make a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distgen.core.errors import UsageError, did_you_mean
from distgen.core.seeding import Stream, derive
from distgen.core.spec import ImageSpec
from distgen.metrics.grid import to_uint8_nhwc
from distgen.models.base import Sampler as ServedNetwork
from distgen.models.latents import truncate
from distgen.serving.making.buckets import (
    BUCKETS,
    REFERENCE_BUCKET,
    agreeing_buckets,
    padded,
    split,
)
from distgen.serving.making.encode import UInt8Images

MAX_SEED = 2**63 - 1
MIN_TRUNCATION, MAX_TRUNCATION = 0.05, 10.0
MAX_TEMPERATURE = 2.0
MAX_LATENT = 100.0
_PROBES, _CLIP_PROBES = BUCKETS[-1], REFERENCE_BUCKET


@dataclass(frozen=True)
class Picture:
    """All that a picture depends on besides the weights."""

    seed: int
    """From 0 to 2^63 - 1."""
    label: int | None = None
    """Class index; None for a model without classes."""
    truncation: float | None = None
    """Latents come from a normal distribution cut at plus and minus this; None: not cut."""
    temperature: float | None = None
    """Latents are multiplied by this, before they are cut; None: by 1."""
    latents: tuple[float, ...] | None = None
    """Latents that take the place of those that the seed draws; None: the seed's."""


def picture_seed(seed: int, index: int) -> int:
    """The seed of the `index`-th picture of a request.

    The first keeps the request's own seed, so that a picture comes back alone when its reported
    seed is sent with n=1. The others stay below 2^53, which every JSON reader keeps exact.
    """
    return seed if index == 0 else derive(seed, "picture", index) >> 10


def random_label(seed: int, num_classes: int) -> int:
    """The class of a picture whose request left it open: a function of the picture's seed."""
    return derive(seed, "class") % num_classes


def class_numbers(wanted: Sequence[str], known: Sequence[str]) -> tuple[int, ...]:
    """The numbers of some classes, out of those of a model; of all of them where none is wanted.

    Raises:
        UsageError: The model has no such class.
    """
    for name in wanted:
        if not known:
            raise UsageError(
                f"The class {name!r} cannot be asked for: this model has no classes.",
                remedy="leave --class out",
            )
        if name not in known:
            raise UsageError(f"There is no class {name!r}.", remedy=did_you_mean(name, known))
    return tuple(known.index(name) for name in wanted or known)


def latents_for(pictures: Sequence[Picture], latent_dim: int) -> NDArray[np.float32]:
    """Latents `[n, latent_dim]`, each row from its picture alone.

    They are standard normal by the picture's seed, or given; then scaled by its temperature, then
    cut. Truncation keeps a picture's identity (see `models.latents.truncate`).
    """
    latents_nd = np.empty((len(pictures), latent_dim), np.float32)
    stream = Stream()
    for row, picture in zip(latents_nd, pictures, strict=True):
        if picture.latents is None:
            stream.restart(derive(picture.seed, "latents"))
            stream.generator.standard_normal(dtype=np.float32, out=row)
        else:
            row[:] = picture.latents
        if picture.temperature is not None:
            row *= np.float32(picture.temperature)
        if picture.truncation is not None:
            row[:] = truncate(row, picture.truncation)
    return latents_nd


class Sampler:
    """Runs a network in batches of a few fixed sizes that agree bit for bit (see `buckets`).

    Args:
        network: The bundle's network, in eval mode.
        spec: Size, mode and classes of the pictures, and frames where they are clips.
        device: Where the network runs.
        threads: Threads of a kernel on the CPU. Another number may give other bits.

    Raises:
        UsageError: torch cannot use the device.
    """

    def __init__(
        self,
        network: ServedNetwork,
        spec: ImageSpec,
        *,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        torch.set_num_threads(threads)
        if device != "cpu":
            _require_cuda()
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        if isinstance(network, torch.nn.Module):
            # Convolutions on a CPU take half as long again in the other layout.
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = spec
        self.network = network
        self.device = device
        self.buckets = self._agreeing_buckets()

    @property
    def largest_bucket(self) -> int:
        """The most pictures that one run of the network makes."""
        return self.buckets[-1]

    def sample(self, pictures: Sequence[Picture]) -> UInt8Images:
        """Images `[n, H, W, C]` or clips `[n, T, H, W, C]`, one per picture, in order."""
        return to_uint8_nhwc(self._run(pictures, self.buckets))

    @torch.inference_mode()
    def decode(
        self,
        latents_nd: NDArray[np.float32],
        labels_n: NDArray[np.int64],
        buckets: Sequence[int] | None = None,
    ) -> Tensor:
        """Images `[n, C, H, W]` or clips `[n, T, C, H, W]` in [-1, 1], float32, on the CPU.

        Args:
            latents_nd: Latents `[n, latent_dim]`.
            labels_n: Classes; of no effect on a model without.
            buckets: Sizes of runs, by default those that agree.
        """
        *frames, height, width, channels = self.spec.shape
        images_nchw = torch.empty(len(latents_nd), *frames, channels, height, width)
        for part, bucket in split(len(latents_nd), buckets or self.buckets):
            images = self.network.sample(
                padded(torch.from_numpy(latents_nd[part]), bucket, self.device),
                padded(torch.from_numpy(labels_n[part]), bucket, self.device)
                if self.network.num_classes
                else None,
            )
            images_nchw[part] = images[: part.stop - part.start].float().cpu()
        return images_nchw

    def _run(self, pictures: Sequence[Picture], buckets: Sequence[int]) -> Tensor:
        labels_n = np.array([picture.label or 0 for picture in pictures], np.int64)
        return self.decode(latents_for(pictures, self.network.latent_dim), labels_n, buckets)

    def _agreeing_buckets(self) -> tuple[int, ...]:
        classes = max(self.network.num_classes, 1)
        return agreeing_buckets(
            lambda rows, bucket: self._run([Picture(i, i % classes) for i in rows], (bucket,)),
            _PROBES if self.spec.frames is None else _CLIP_PROBES,
        )


def _require_cuda() -> None:
    """Refuse what Ray promised and this machine's torch does not hold."""
    if not torch.cuda.is_available():
        built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs"
        raise UsageError(
            "Ray offers a GPU here that torch cannot use.",
            cause=f"torch is built for {built_for} and sees no GPU",
            remedy="distgen doctor, or no GPUs: --gpus-per-replica 0, --gpus-per-worker 0",
        )
