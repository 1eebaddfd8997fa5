"""The convolutions of penalties give torch's own gradients, first and second, for any geometry."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from distgen.objectives.twice import TwiceDifferentiable, inputs_only

GEOMETRIES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 0},  # the last row is reached by no stride
    {"kernel_size": (1, 3), "stride": (3, 2), "padding": (0, 2)},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 3, "padding": 1, "bias": False},
    {"kernel_size": 3, "padding": "same"},
]


def gradients(network: nn.Module, images: Tensor, *, ours: bool) -> list[Tensor]:
    """Of a loss with a penalty in it: the penalty's first, then those of all weights."""
    network.zero_grad()
    images = images.clone().requires_grad_()
    with TwiceDifferentiable() if ours else nullcontext():
        scores = network(images).flatten(1).sum(1)
    with inputs_only():
        (of_images,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    loss = scores.square().mean() + of_images.square().flatten(1).sum(1).mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    return [of_images.detach(), *(parameter.grad for parameter in network.parameters())]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_gradients_are_those_of_torch(geometry):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, **geometry), nn.Softplus(), nn.Conv2d(4, 4, **geometry), nn.Softplus()
    ).double()
    images = torch.randn(3, 2, 12, 11, dtype=torch.float64)
    ours = gradients(network, images, ours=True)
    theirs = gradients(network, images, ours=False)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_outside_convolutions_are_torchs_own():
    layer = nn.Conv2d(1, 1, 3)
    images = torch.randn(1, 1, 5, 5)
    with TwiceDifferentiable():
        inside = layer(images)
    assert inside.grad_fn.name() != layer(images).grad_fn.name() == "ConvolutionBackward0"
    with TwiceDifferentiable(), torch.no_grad():
        assert layer(images).grad_fn is None


def test_a_loss_gives_pictures_no_gradient_that_nobody_reads():
    layer = nn.Conv2d(1, 1, 3)
    images = torch.randn(1, 1, 5, 5, requires_grad=True)
    with TwiceDifferentiable():
        layer(images).sum().backward()
    assert images.grad is None
    assert layer.weight.grad is not None
