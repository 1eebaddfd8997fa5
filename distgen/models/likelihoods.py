"""p(x|z): how a decoder's output becomes a probability of the picture that was observed."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distgen.models.gaussians import standard_normal_log_prob

LikelihoodName = Literal["bernoulli", "gaussian"]

_LEVEL = 2.0 / 255.0
"""Distance between neighbouring 8-bit grey levels on the scale [-1, 1]."""


def binarise(images_nchw: Tensor, uniforms_nchw: Tensor) -> Tensor:
    """Pixels 0.0 or 1.0, each 1 with the probability of its grey value (Salakhutdinov & Murray).

    Args:
        images_nchw: Pictures in [-1, 1].
        uniforms_nchw: Uniform in [0, 1), the same shape.
    """
    return (uniforms_nchw < 0.5 * (images_nchw + 1.0)).to(images_nchw.dtype)


def dequantise(images_nchw: Tensor, uniforms_nchw: Tensor) -> Tensor:
    """8-bit pictures in [-1, 1], each pixel spread uniformly over its grey level (Theis 2016)."""
    return images_nchw + _LEVEL * (uniforms_nchw - 0.5)


class Bernoulli(nn.Module):
    """Independent binary pixels; the decoder puts out logits."""

    def observe(self, images_nchw: Tensor, uniforms_nchw: Tensor) -> Tensor:
        """Binarised pictures."""
        return binarise(images_nchw, uniforms_nchw)

    def log_prob(self, outputs_nchw: Tensor, observed_nchw: Tensor) -> Tensor:
        """Log probability p(x|z) [n] in nats of the binarised picture."""
        losses = F.binary_cross_entropy_with_logits(outputs_nchw, observed_nchw, reduction="none")
        return -losses.flatten(1).sum(1)

    def mean(self, outputs_nchw: Tensor) -> Tensor:
        """Probabilities, brought to [-1, 1]."""
        return 2.0 * torch.sigmoid(outputs_nchw) - 1.0


class Gaussian(nn.Module):
    """Independent normal pixels around the decoder's output, with one learned scale for all.

    The shared scale settles at the model's own error (Rybkin et al. 2021, sigma-VAE). Densities
    are multiplied by the width of a grey level, so that the bound is one on the probability of
    the 8-bit picture and divides into bits per dimension.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(0.5)))

    def observe(self, images_nchw: Tensor, uniforms_nchw: Tensor) -> Tensor:
        """Dequantised pictures."""
        return dequantise(images_nchw, uniforms_nchw)

    def log_prob(self, outputs_nchw: Tensor, observed_nchw: Tensor) -> Tensor:
        """Log probability p(x|z) [n] in nats of the 8-bit picture."""
        normals = (observed_nchw - outputs_nchw) * (-self.log_scale).exp()
        densities = standard_normal_log_prob(normals) - self.log_scale
        return (densities + math.log(_LEVEL)).flatten(1).sum(1)

    def mean(self, outputs_nchw: Tensor) -> Tensor:
        """The decoder's output, within [-1, 1]."""
        return outputs_nchw.clamp(-1.0, 1.0)


def build_likelihood(name: LikelihoodName) -> nn.Module:
    """The likelihood that a job file names."""
    return Bernoulli() if name == "bernoulli" else Gaussian()
