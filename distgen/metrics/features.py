"""Feature extractors: uint8 pictures to the vectors that distances are measured between."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import scipy.linalg
import torch
from torch import Tensor
from torch.nn import functional as F

from distgen.core.storage import sha256_of
from distgen.metrics import efficientnet

ExtractorName = Literal["efficientnet-lite0", "pixel-pca64", "inception-v3"]
EXTRACTORS: tuple[str, ...] = get_args(ExtractorName)

RESOLUTION = 112
"""Side in pixels that EfficientNet sees: half of what it was trained on. Blurred, noisy or
shifted 28x28 pictures stand out from the floor as clearly as at 128, and more than at 96 or 64, and
one core looks at 210 pictures/s (128: 160, 224: 45)."""
PCA_COMPONENTS = 64
PCA_SIDE = 32
"""Pictures with a longer side are averaged over areas to this side before the projection."""
PCA_FIT_PICTURES = 5_000

# TensorFlow's Lite models scale pixels by (x - 127) / 128; the first running mean in the weights
# agrees, and differs from zero, which the usual ImageNet statistics would give.
_PIXEL_MEAN, _PIXEL_SCALE = 127.0, 128.0
# Activations of 16 pictures fit the cache of a CPU; a GPU wants more at once.
_CPU_BATCH, _GPU_BATCH = 16, 256


class Extractor(Protocol):
    """Maps uint8 pictures `[n, H, W, C]` to float32 features `[n, dimensions]`."""

    @property
    def name(self) -> str:
        """What a card calls it."""
        ...

    @property
    def digest(self) -> str:
        """Identity of the weights and the preprocessing; distances compare only where it agrees."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of a feature vector."""
        ...

    def __call__(self, images_nhwc: np.ndarray) -> np.ndarray:
        """Features of a batch, each row a function of its picture alone."""
        ...


class EfficientNetFeatures:
    """The pooled features of EfficientNet-Lite0 on pictures brought to `RESOLUTION`.

    Grey pictures are repeated over three channels. Resizing is bicubic with antialiasing, without
    regard to the aspect ratio, as for Inception features.
    """

    name = "efficientnet-lite0"
    dimensions = efficientnet.FEATURES
    digest = sha256_of(
        f"{efficientnet.WEIGHTS_SHA256} bicubic {RESOLUTION} {_PIXEL_MEAN} {_PIXEL_SCALE}".encode()
    )

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        on_cpu = self.device.type == "cpu"
        shared = efficientnet.folded()
        self._network = shared if on_cpu else copy.deepcopy(shared).to(self.device)
        self._batch = _CPU_BATCH if on_cpu else _GPU_BATCH

    @torch.inference_mode()
    def __call__(self, images_nhwc: np.ndarray) -> np.ndarray:
        """Features `[n, 1280]`."""
        parts = [
            self._network.features(self._inputs(images_nhwc[start : start + self._batch]))
            for start in range(0, len(images_nhwc), self._batch)
        ]
        return np.concatenate([part.cpu().numpy() for part in parts])

    def _inputs(self, images_nhwc: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(images_nhwc)).to(self.device)
        pixels_nchw = pixels.permute(0, 3, 1, 2).float()
        size = (RESOLUTION, RESOLUTION)
        if pixels_nchw.shape[-2:] != size:
            resized = F.interpolate(pixels_nchw, size=size, mode="bicubic", antialias=True)
            pixels_nchw = resized.clamp_(0.0, 255.0)  # bicubic overshoots at edges
        normalised = (pixels_nchw - _PIXEL_MEAN) / _PIXEL_SCALE
        rgb = normalised.expand(-1, 3, -1, -1)
        return rgb.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class PixelPCA:
    """Pixels in [0, 1] projected on the main directions of the training pictures.

    What a network trained on photographs may overlook (tone, position, coarse shape) is all that
    this sees, which is why the two are reported together.
    """

    mean_p: np.ndarray
    """Mean picture, flattened, float32 `[pixels]`."""
    components_kp: np.ndarray
    """Orthonormal directions, float32 `[components, pixels]`, the strongest first."""
    digest: str
    """Identity of the fit: set, pictures and method, not its last bits, which vary by machine."""
    name: str = "pixel-pca64"

    @property
    def dimensions(self) -> int:
        """Number of directions: 64, or fewer where pictures have fewer pixels."""
        return int(self.components_kp.shape[0])

    def __call__(self, images_nhwc: np.ndarray) -> np.ndarray:
        """Features `[n, components]`."""
        projected: np.ndarray = (_flat_pixels(images_nhwc) - self.mean_p) @ self.components_kp.T
        return projected


def fit_pixel_pca(images_nhwc: np.ndarray, identity: str) -> PixelPCA:
    """Principal components of uint8 pictures `[n, H, W, C]`, by their covariance in float64.

    Args:
        images_nhwc: At least two pictures.
        identity: Names the pictures that are given; part of the digest.
    """
    pixels = _flat_pixels(images_nhwc).astype(np.float64)
    mean_p = pixels.mean(axis=0)
    centred = pixels - mean_p
    dimensions = centred.shape[1]
    kept = min(PCA_COMPONENTS, dimensions, len(centred) - 1)
    _, vectors = scipy.linalg.eigh(
        centred.T @ centred, subset_by_index=(dimensions - kept, dimensions - 1)
    )
    components = vectors.T[::-1]
    # Eigenvectors have no sign of their own; the largest entry is made positive.
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    return PixelPCA(
        mean_p=mean_p.astype(np.float32),
        components_kp=np.ascontiguousarray(components * np.sign(largest), dtype=np.float32),
        digest=pixel_pca_digest(identity),
    )


def pixel_pca_digest(identity: str) -> str:
    """The digest that a fit on the named pictures has, known before it is made."""
    return sha256_of(f"pixel-pca v1 {PCA_COMPONENTS} area {PCA_SIDE} {identity}".encode())


def _flat_pixels(images_nhwc: np.ndarray) -> np.ndarray:
    """Float32 pixels in [0, 1], `[n, pixels]`, of pictures of at most `PCA_SIDE` a side."""
    pixels_nchw = torch.from_numpy(np.ascontiguousarray(images_nhwc)).permute(0, 3, 1, 2).float()
    height, width = pixels_nchw.shape[-2:]
    size = (min(height, PCA_SIDE), min(width, PCA_SIDE))
    if size != (height, width):
        pixels_nchw = F.interpolate(pixels_nchw, size=size, mode="area")
    flat: np.ndarray = (pixels_nchw / 255.0).flatten(1).numpy()
    return flat
