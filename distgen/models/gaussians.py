"""Diagonal Gaussians over latents: drawn from, weighed, and compared."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_LOG_TWO_PI = math.log(2.0 * math.pi)
_SOFTEST = 7.0
"""No scale lies below e^-7 or above e^7."""


class DiagonalGaussian(NamedTuple):
    """Independent normal numbers, with a mean and a scale for each row and dimension."""

    mean_nd: Tensor
    log_scale_nd: Tensor
    """Logarithm of the standard deviation [n, d]."""

    @classmethod
    def of(cls, mean_nd: Tensor, raw_nd: Tensor) -> DiagonalGaussian:
        """From what a network puts out: scales are limited softly, with a gradient everywhere."""
        return cls(mean_nd, _SOFTEST * torch.tanh(raw_nd / _SOFTEST))

    def where(self, kept: Tensor) -> DiagonalGaussian:
        """The same where `kept` is true (broadcast), the standard normal elsewhere."""
        return DiagonalGaussian(self.mean_nd * kept, self.log_scale_nd * kept)

    def sample(self, normals_nd: Tensor) -> Tensor:
        """Values [n, d] from standard normal numbers (reparameterised, so gradients flow)."""
        return self.mean_nd + normals_nd * self.log_scale_nd.exp()

    def log_prob(self, values_nd: Tensor) -> Tensor:
        """Log density [n, d] in nats, by dimension."""
        normals_nd = (values_nd - self.mean_nd) * (-self.log_scale_nd).exp()
        return standard_normal_log_prob(normals_nd) - self.log_scale_nd

    def kl_to_standard(self) -> Tensor:
        """KL to the standard normal [n, d], by dimension (Kingma & Welling 2014, appendix B)."""
        second_moment_nd = self.mean_nd.square() + (2.0 * self.log_scale_nd).exp()
        return 0.5 * (second_moment_nd - 1.0) - self.log_scale_nd


def standard_normal_log_prob(values: Tensor) -> Tensor:
    """Elementwise log density of the standard normal, in nats."""
    return -0.5 * (values.square() + _LOG_TWO_PI)
