"""Pictures as a pure function of (weights, seed, class, controls), whatever shares their batch.

A model of clips makes a clip where others make a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distgen.core.errors import UsageError, did_you_mean
from distgen.core.seeding import derive
from distgen.core.spec import ImageSpec
from distgen.metrics.grid import to_uint8_nhwc
from distgen.models.base import Sampler as ServedNetwork
from distgen.models.latents import truncate

MAX_SEED = 2**63 - 1
MIN_TRUNCATION, MAX_TRUNCATION = 0.05, 10.0
REFERENCE_BUCKET = 16
BUCKETS = (1, 2, 4, 8, 16, 32, 64)
_PROBES, _CLIP_PROBES = BUCKETS[-1], REFERENCE_BUCKET

UInt8Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """All that a picture depends on besides the weights."""

    seed: int
    """From 0 to 2^63 - 1."""
    label: int | None = None
    """Class index; None for a model without classes."""
    truncation: float | None = None
    """Latents come from a normal distribution cut at plus and minus this; None: not cut."""


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
    """Standard normal latents `[n, latent_dim]`, each row from its picture's seed alone.

    Truncation keeps a picture's identity (see `models.latents.truncate`).
    """
    latents_nd = np.empty((len(pictures), latent_dim), np.float32)
    for row, picture in zip(latents_nd, pictures, strict=True):
        stream = np.random.Generator(np.random.Philox(key=derive(picture.seed, "latents")))
        stream.standard_normal(dtype=np.float32, out=row)
        if picture.truncation is not None:
            row[:] = truncate(row, picture.truncation)
    return latents_nd


class Sampler:
    """Runs a network in batches of a few fixed sizes that agree bit for bit.

    Kernels for another batch size add in another order: the same latents come out a few ulp apart,
    which now and then turns a pixel by one. So a picture is defined as its row in a batch of
    `REFERENCE_BUCKET`, and another size is used only if it gave the same bits for every probe on
    this machine. Inside one size a row depends neither on its position nor on its neighbours; where
    that fails, pictures run one at a time.

    Args:
        network: The bundle's network, in eval mode.
        spec: Size, mode and classes of the pictures, and frames where they are clips.
        device: Where the network runs.
        threads: Threads of a kernel on the CPU. Another number may give other bits.
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
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        if isinstance(network, torch.nn.Module):
            # Convolutions on a CPU take half as long again in the other layout.
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = spec
        self._network = network
        self._device = device
        self.buckets = self._agreeing_buckets()

    @property
    def largest_bucket(self) -> int:
        """The most pictures that one run of the network makes."""
        return self.buckets[-1]

    def sample(self, pictures: Sequence[Picture]) -> UInt8Images:
        """Images `[n, H, W, C]` or clips `[n, T, H, W, C]`, one per picture, in order."""
        return to_uint8_nhwc(self._run(pictures, self.buckets))

    @torch.inference_mode()
    def _run(self, pictures: Sequence[Picture], buckets: Sequence[int]) -> Tensor:
        """Images `[n, C, H, W]` or clips `[n, T, C, H, W]` in [-1, 1], float32, on the CPU."""
        *frames, height, width, channels = self.spec.shape
        latents_nd = latents_for(pictures, self._network.latent_dim)
        labels_n = np.array([picture.label or 0 for picture in pictures], np.int64)
        images_nchw = torch.empty(len(pictures), *frames, channels, height, width)
        for part, bucket in split(len(pictures), buckets):
            images_nchw[part] = self._run_bucket(latents_nd[part], labels_n[part], bucket)
        return images_nchw

    def _run_bucket(
        self, latents_nd: NDArray[np.float32], labels_n: NDArray[np.int64], bucket: int
    ) -> Tensor:
        count = len(latents_nd)
        # Fresh tensors: kernels may choose their path by alignment, and views are not aligned.
        padded_nd = torch.zeros(bucket, self._network.latent_dim)
        padded_nd[:count] = torch.from_numpy(latents_nd)
        classes_n = torch.zeros(bucket, dtype=torch.int64)
        classes_n[:count] = torch.from_numpy(labels_n)
        images_nchw = self._network.sample(
            padded_nd.to(self._device),
            classes_n.to(self._device) if self._network.num_classes else None,
        )
        return images_nchw[:count].float().cpu()

    def _agreeing_buckets(self) -> tuple[int, ...]:
        classes = max(self._network.num_classes, 1)
        count = _PROBES if self.spec.frames is None else _CLIP_PROBES
        probes = [Picture(seed=i, label=i % classes) for i in range(count)]
        reference = self._run(probes, (REFERENCE_BUCKET,))
        for shift in (1, REFERENCE_BUCKET // 2 + 1):
            turned = probes[shift:] + probes[:shift]
            if not self._gives(reference.roll(-shift, 0), turned, REFERENCE_BUCKET):
                return (1,)
        return tuple(
            bucket
            for bucket in BUCKETS
            if bucket <= count
            and (bucket == REFERENCE_BUCKET or self._gives(reference, probes, bucket))
        )

    def _gives(self, expected: Tensor, probes: Sequence[Picture], bucket: int) -> bool:
        """Whether runs of this size give these bits; ends at the first that does not."""
        return all(
            torch.equal(
                self._run(probes[part], (bucket,)).view(torch.int32),
                expected[part].view(torch.int32),
            )
            for part, _ in split(len(probes), (bucket,))
        )


def split(count: int, buckets: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Rows of a batch and the bucket that each run takes.

    A bucket that would stay a quarter empty gives way to the largest that can be filled.

    Args:
        count: Pictures wanted.
        buckets: Sizes that may be used, ascending.
    """
    start = 0
    while start < count:
        left = count - start
        filled = [size for size in buckets if size <= left]
        covering = [size for size in buckets if size >= left]
        wasteful = not covering or left < 0.75 * covering[0]
        bucket = filled[-1] if filled and wasteful else covering[0]
        size = min(bucket, left)
        yield slice(start, start + size), bucket
        start += size
