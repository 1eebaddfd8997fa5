"""p(x|z): how a decoder's output becomes a probability of the picture that was observed."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distgen.models.gaussians import standard_normal_log_prob

LikelihoodName = Literal["bernoulli", "gaussian", "logistic", "logistic-mixture"]

_LEVEL = 2.0 / 255.0
"""Distance between neighbouring 8-bit grey levels on the scale [-1, 1]."""
_NARROWEST = -7.0
"""No logistic's scale lies below e^-7, about an eighth of a grey level (Salimans et al. 2017)."""
_COMPONENTS = 5
"""Logistics in a mixture."""


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

    outputs_per_channel = 1

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

    outputs_per_channel = 1

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


class DiscretisedLogistic(nn.Module):
    """Independent 8-bit pixels, each with its own mixture of logistics (PixelCNN++, section 2.1).

    The probability of a grey level is the logistic's mass between its neighbours' halves; the
    lowest level has all that lies below it too, and the highest all above (Salimans et al. 2017,
    equation 2). These are probabilities of the 8-bit picture itself: nothing is dequantised.
    Channels are independent given z.

    Args:
        components: Logistics in each pixel's mixture. For each colour channel the decoder puts out
            their means, then the logarithms of their scales, then, where there are several, the
            logits of their weights.
    """

    def __init__(self, components: int = 1) -> None:
        super().__init__()
        self.components = components
        self.outputs_per_channel = 2 if components == 1 else 3 * components

    def observe(self, images_nchw: Tensor, uniforms_nchw: Tensor) -> Tensor:  # noqa: ARG002
        """The nearest 8-bit pictures; no noise is added."""
        levels = ((images_nchw + 1.0) / _LEVEL).round().clamp(0.0, 255.0)
        return levels * _LEVEL - 1.0

    def log_prob(self, outputs_nchw: Tensor, observed_nchw: Tensor) -> Tensor:
        """Log probability p(x|z) [n] in nats of the 8-bit picture."""
        means, log_scales, log_weights = self._mixture(outputs_nchw)
        values = observed_nchw.unsqueeze(2)
        inverse_scales = (-log_scales).exp()
        above = (values + 0.5 * _LEVEL - means) * inverse_scales
        below = (values - 0.5 * _LEVEL - means) * inverse_scales
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a)), without cancellation.
        width = _LEVEL * inverse_scales
        inside = F.logsigmoid(above) + F.logsigmoid(-below) + torch.log(-torch.expm1(-width))
        # The outermost levels lie half a level from the ends of [-1, 1].
        lowest, highest = values < -1.0 + 0.5 * _LEVEL, values > 1.0 - 0.5 * _LEVEL
        masses = torch.where(lowest, F.logsigmoid(above), inside)
        masses = torch.where(highest, F.logsigmoid(-below), masses)
        return torch.logsumexp(masses + log_weights, dim=2).flatten(1).sum(1)

    def mean(self, outputs_nchw: Tensor) -> Tensor:
        """The mixture's mean, each logistic's brought into [-1, 1] before."""
        means, _, log_weights = self._mixture(outputs_nchw)
        whole = (means.clamp(-1.0, 1.0) * log_weights.exp()).sum(2)
        # Rounded weights may sum to a little more than one.
        return whole.clamp(-1.0, 1.0)

    def _mixture(self, outputs_nchw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, log scales and log weights, each [n, channels, components, height, width]."""
        kinds = 2 if self.components == 1 else 3
        count, _, *size = outputs_nchw.shape
        parts = outputs_nchw.reshape(count, -1, kinds, self.components, *size)
        means, log_scales = parts[:, :, 0], parts[:, :, 1].clamp_min(_NARROWEST)
        if self.components == 1:
            return means, log_scales, torch.zeros_like(means)
        return means, log_scales, parts[:, :, 2].log_softmax(dim=2)


def build_likelihood(name: LikelihoodName) -> Bernoulli | Gaussian | DiscretisedLogistic:
    """The likelihood that a job file names."""
    if name == "logistic":
        return DiscretisedLogistic()
    if name == "logistic-mixture":
        return DiscretisedLogistic(_COMPONENTS)
    return Bernoulli() if name == "bernoulli" else Gaussian()
