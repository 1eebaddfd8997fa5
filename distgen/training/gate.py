"""Whether a step is taken: by all ranks or none, on finite gradients; and how long they may be.

Nothing here asks the device for an answer where there is one to wait for: on CUDA the fused
optimiser itself reads the flag, as it does for a gradient scaler.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_


def backward(loss: Tensor) -> None:
    """Backward from a scalar loss; one that is not finite makes its gradients not finite too.

    The gradient that backward starts from is 1 for a finite loss and not a number for any other.
    DistributedDataParallel then adds it to what the other ranks have, so that one rank's bad loss
    is in every rank's gradients, and no message of its own is needed.
    """
    loss.backward(gradient=loss.detach() * 0 + 1)  # type: ignore[no-untyped-call]


def may_step(optimizer: torch.optim.Optimizer, *, guarded: bool) -> Tensor:
    """A bool [] on the device of the weights: True, or where steps are guarded whether it may."""
    if guarded:
        return gradients_finite(optimizer)
    weight = optimizer.param_groups[0]["params"][0]
    return torch.ones((), dtype=torch.bool, device=weight.device)


@torch.no_grad()
def gradients_finite(optimizer: torch.optim.Optimizer) -> Tensor:
    """Whether all gradients of an optimiser's weights are finite: a bool [] on their device.

    Gradients whose squares overflow float32 count as not finite.
    """
    gradients = [weight.grad for weight in _weights(optimizer) if weight.grad is not None]
    if not gradients:
        return may_step(optimizer, guarded=False)
    norms = torch._foreach_norm(gradients)
    return torch.isfinite(torch.stack([norm.float() for norm in norms]).sum())


def shorten(optimizer: torch.optim.Optimizer, longest: float) -> Tensor:
    """Scale all gradients alike, so that together they are at most `longest` (Pascanu et al. 2013).

    Returns:
        Their Euclidean length before that, a scalar on their device.
    """
    return clip_grad_norm_(_weights(optimizer), longest)


def step_if(optimizer: torch.optim.Optimizer, allowed: Tensor) -> None:
    """Let the optimiser step, or leave weights, moments and step counts as they are.

    Args:
        optimizer: On CUDA one with `fused=True`.
        allowed: A bool [] on the device of the weights.
    """
    if allowed.is_cuda:
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.found_inf = (~allowed).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif allowed.item():
        optimizer.step()


def _weights(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]
