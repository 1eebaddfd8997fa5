"""Pictures made of given ones, by models that can read their latents: variations and edits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distgen.core.seeding import derive
from distgen.core.spec import ImageSpec
from distgen.metrics.grid import to_uint8_nhwc
from distgen.models.base import LatentReader
from distgen.models.base import Sampler as ServedNetwork
from distgen.serving.making.buckets import REFERENCE_BUCKET, agreeing_buckets, padded, split
from distgen.serving.making.encode import UInt8Images
from distgen.serving.making.sampler import Picture, Sampler, latents_for

EDIT_STEPS = 32
"""Rounds of the chain that fills a hole."""


@dataclass(frozen=True)
class Variation:
    """A picture that keeps a part of what another one shows."""

    seed: int
    """What the rest becomes, from 0 to 2^63 - 1."""
    pixels: bytes
    """The other picture, `[H, W, C]` as the model makes them."""
    strength: float
    """From 0, what the model can tell of the picture, to 1, the picture of the seed."""
    label: int | None = None


@dataclass(frozen=True)
class Edit:
    """A picture with a hole, which is filled."""

    seed: int
    """What it is filled with, from 0 to 2^63 - 1."""
    pixels: bytes
    """The picture, `[H, W, C]` as the model makes them; what lies in the hole has no effect."""
    hole: bytes
    """`[H, W]`: not 0 where a pixel is made anew."""
    label: int | None = None


Wanted = Picture | Variation | Edit
"""Whatever a request may want."""


def can_remake(network: ServedNetwork, spec: ImageSpec) -> bool:
    """Whether this model can read pictures, and so make others of them."""
    return spec.frames is None and isinstance(network, LatentReader)


class Remaker:
    """Makes variations and edits; the same bytes whatever shares a batch.

    Args:
        sampler: Of a model that `can_remake`.

    Raises:
        TypeError: It is of another.
    """

    def __init__(self, sampler: Sampler) -> None:
        if not isinstance(sampler.network, LatentReader):
            raise TypeError(f"{type(sampler.network).__name__} cannot read pictures")
        self._sampler = sampler
        self._reader: LatentReader = sampler.network
        self._latent_dim = sampler.network.latent_dim
        spec = sampler.spec
        self._shape = (spec.height, spec.width, spec.channels)
        self.buckets = agreeing_buckets(self._probe, REFERENCE_BUCKET)

    def remake(self, wanted: Sequence[Variation | Edit]) -> list[UInt8Images]:
        """Pictures `[H, W, C]`, in order."""
        made: dict[int, UInt8Images] = {}
        for kind, make in _KINDS:
            rows = [row for row, one in enumerate(wanted) if isinstance(one, kind)]
            if rows:
                made |= zip(rows, make(self, [wanted[row] for row in rows]), strict=True)
        return [made[row] for row in range(len(wanted))]

    def vary(self, wanted: Sequence[Variation]) -> UInt8Images:
        """Pictures `[n, H, W, C]` whose latents are blended with those of a seed.

        Both are normal and independent, and the blend keeps their variance: its squared weights add
        up to one.
        """
        images_nchw = self._images(wanted)
        latents_nd = self._read(
            images_nchw,
            torch.full_like(images_nchw, 0.5),
            torch.zeros(len(wanted), self._latent_dim),
        ).numpy()
        fresh_nd = latents_for([Picture(one.seed) for one in wanted], self._latent_dim)
        strengths_n1 = np.array([[one.strength] for one in wanted], np.float32)
        kept_n1 = np.sqrt(1.0 - strengths_n1 * strengths_n1)
        blended_nd = kept_n1 * latents_nd + strengths_n1 * fresh_nd
        return to_uint8_nhwc(self._sampler.decode(blended_nd, _labels(wanted)))

    def edit(self, wanted: Sequence[Edit]) -> UInt8Images:
        """Pictures `[n, H, W, C]` that differ from the given ones only in their holes.

        A Markov chain whose pictures tend to the model's own, given the known pixels (Rezende et
        al. 2014, appendix F): the hole is drawn at random, then again and again the whole picture
        is encoded, decoded, and the known pixels put back. The last round takes the posterior's
        mean instead of a sample.
        """
        known_nchw, labels_n = self._images(wanted), _labels(wanted)
        height, width, _ = self._shape
        holes_n1hw = _bytes(one.hole for one in wanted).reshape(-1, 1, height, width) != 0
        holes = torch.from_numpy(holes_n1hw)
        streams = [
            np.random.Generator(np.random.Philox(key=derive(one.seed, "edit"))) for one in wanted
        ]

        def drawn(draw: Callable[[np.random.Generator], NDArray[np.float32]]) -> Tensor:
            return torch.from_numpy(np.stack([draw(stream) for stream in streams]))

        def uniforms() -> Tensor:
            return drawn(lambda stream: stream.random(known_nchw.shape[1:], np.float32))

        images_nchw = torch.where(holes, 2.0 * uniforms() - 1.0, known_nchw)
        for step in range(1, EDIT_STEPS + 1):
            uniforms_nchw = uniforms()
            normals_nd = drawn(lambda s: s.standard_normal(self._latent_dim, np.float32))
            if step == EDIT_STEPS:
                normals_nd.zero_()
            latents_nd = self._read(images_nchw, uniforms_nchw, normals_nd)
            made_nchw = self._sampler.decode(latents_nd.numpy(), labels_n)
            images_nchw = torch.where(holes, made_nchw, known_nchw)
        given = _bytes(one.pixels for one in wanted).reshape(-1, *self._shape)
        return np.where(holes_n1hw.transpose(0, 2, 3, 1), to_uint8_nhwc(images_nchw), given)

    def _images(self, wanted: Sequence[Variation | Edit]) -> Tensor:
        """Their pictures `[n, C, H, W]` in [-1, 1]."""
        pixels_nhwc = _bytes(one.pixels for one in wanted).reshape(-1, *self._shape)
        images_nhwc = torch.from_numpy(pixels_nhwc.astype(np.float32)) / 127.5 - 1.0
        return images_nhwc.permute(0, 3, 1, 2).contiguous()

    @torch.inference_mode()
    def _read(
        self,
        images_nchw: Tensor,
        uniforms_nchw: Tensor,
        normals_nd: Tensor,
        buckets: Sequence[int] | None = None,
    ) -> Tensor:
        """Latents `[n, latent_dim]` by the posterior, on the CPU (see `LatentReader`)."""
        latents_nd = torch.empty(len(images_nchw), self._latent_dim)
        for part, bucket in split(len(images_nchw), buckets or self.buckets):
            images, uniforms, normals = (
                padded(each[part], bucket, self._sampler.device)
                for each in (images_nchw, uniforms_nchw, normals_nd)
            )
            observed = self._reader.observe(images, uniforms)
            drawn, _ = self._reader.draw(observed, self._reader.encode(observed), normals)
            latents_nd[part] = drawn[: part.stop - part.start].float().cpu()
        return latents_nd

    def _probe(self, rows: Sequence[int], bucket: int) -> Tensor:
        """Latents of noise and of grey pictures, by turns."""
        height, width, channels = self._shape
        numbers = channels * height * width
        noise_nd = latents_for([Picture(row) for row in rows], 2 * numbers + self._latent_dim)
        images, uniforms, normals = np.split(noise_nd, [numbers, 2 * numbers], axis=1)
        contrasts_n1 = np.array([[row % 4 / 4] for row in rows], np.float32)
        shape = (-1, channels, height, width)
        return self._read(
            torch.from_numpy(np.tanh(images * contrasts_n1).reshape(shape)),
            torch.from_numpy((0.5 + 0.5 * np.tanh(uniforms)).reshape(shape)),
            torch.from_numpy(np.ascontiguousarray(normals)),
            (bucket,),
        )


_KINDS: tuple[tuple[type, Callable[..., UInt8Images]], ...] = (
    (Variation, Remaker.vary),
    (Edit, Remaker.edit),
)


def _labels(wanted: Sequence[Variation | Edit]) -> NDArray[np.int64]:
    return np.array([one.label or 0 for one in wanted], np.int64)


def _bytes(parts: Iterable[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(parts), np.uint8)
