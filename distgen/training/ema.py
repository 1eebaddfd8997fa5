"""The served weights: an exponential moving average whose memory is a half-life in images."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from distgen.core.schedule import Schedule, value_at

# Early on the average must not be dominated by the initial weights: its half-life is at most this
# share of the images seen so far (Karras et al. 2020, training configuration).
RAMP_UP = 0.05


class EMA:
    """Averages a network's parameters; its buffers are copied, for they are not weights.

    Args:
        network: What the average begins as and follows from then on.
        half_life: In images.
    """

    def __init__(self, network: nn.Module, half_life: float | Schedule[float]) -> None:
        self.module = copy.deepcopy(network).eval().requires_grad_(False)
        self.half_life = half_life
        # Looked up once: going through the modules takes longer than averaging a small network.
        self._averages: list[Tensor] = [*self.module.parameters()]
        self._weights: list[Tensor] = [*network.parameters()]
        self._buffers = list(zip(self.module.buffers(), network.buffers(), strict=True))

    @torch.no_grad()
    def update(self, batch_size: int, images_seen: int) -> None:
        """Move the average towards the network by one step of `batch_size` images."""
        wanted = value_at(self.half_life, images_seen)
        half_life = max(min(wanted, RAMP_UP * images_seen), 1e-8)
        decay = 0.5 ** (batch_size / half_life)
        torch._foreach_lerp_(self._averages, self._weights, weight=1.0 - decay)
        for average, buffer in self._buffers:
            average.copy_(buffer)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights by name."""
        return dict(self.module.state_dict())

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take averaged weights by name; all of them must be there."""
        self.module.load_state_dict(state, strict=True)
