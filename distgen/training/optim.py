"""Optimisers, what they train, and what of them is a function of the clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from distgen.core.schedule import value_at
from distgen.objectives.base import Phase
from distgen.training.job import TrainingConfig


def build_optimizers(
    phases: Iterable[Phase], networks: Mapping[str, nn.Module], config: TrainingConfig
) -> dict[str, torch.optim.Optimizer]:
    """One AdamW per phase, over the networks that the phase trains."""
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for phase in phases:
        parameters = [p for name in phase.networks for p in networks[name].parameters()]
        optimizers[phase.name] = torch.optim.AdamW(
            parameters,
            lr=value_at(config.learning_rate, 0),
            betas=betas_at(config, 0),
            eps=1e-8,
            weight_decay=config.weight_decay,
            # One pass over memory for each weight, on CPUs as on GPUs.
            fused=True,
        )
        optimizers[phase.name].register_load_state_dict_post_hook(_lay_out_like_weights)
    return optimizers


def train_only(networks: Mapping[str, nn.Module], names: Iterable[str]) -> None:
    """Let gradients reach the named networks and no others."""
    wanted = set(names)
    for name, network in networks.items():
        # A network's weights are all trained or all frozen, and most steps find them as they left
        # them: the first one tells, without going through modules and weights.
        first = next(network.parameters(), None)
        if first is not None and first.requires_grad != (name in wanted):
            network.requires_grad_(name in wanted)


def _lay_out_like_weights(optimizer: torch.optim.Optimizer) -> None:
    """Bring restored moments into the layout of their weights.

    Fused optimisers go through memory as it lies, and a checkpoint holds no layout.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def learning_rate_at(config: TrainingConfig, images_seen: int) -> float:
    """The learning rate of the step that starts at `images_seen`."""
    rate = value_at(config.learning_rate, images_seen)
    if images_seen < config.warmup_images:
        # The first step, at 0 images, must move too.
        return rate * (images_seen + config.batch_size) / (config.warmup_images + config.batch_size)
    if config.schedule == "cosine":
        span = max(1, config.images - config.warmup_images)
        progress = min(1.0, (images_seen - config.warmup_images) / span)
        return rate * 0.5 * (1.0 + math.cos(math.pi * progress))
    return rate


def betas_at(config: TrainingConfig, images_seen: int) -> tuple[float, float]:
    """Adam's decay rates for the step that starts at `images_seen`."""
    first, second = config.betas
    return first, value_at(second, images_seen)


def set_pace(
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    images_seen: int,
    *,
    factor: float = 1.0,
) -> None:
    """Give every parameter group what its step that starts at `images_seen` is to use.

    Args:
        optimizer: Of a phase.
        config: Its learning rate and decay rates.
        images_seen: The clock.
        factor: Multiplies the learning rate.
    """
    rate, betas = factor * learning_rate_at(config, images_seen), betas_at(config, images_seen)
    for group in optimizer.param_groups:
        group["lr"], group["betas"] = rate, betas
