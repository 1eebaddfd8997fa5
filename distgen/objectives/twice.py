"""Convolutions whose input gradient is differentiated once more, as gradient penalties want.

torch's own second derivative computes the gradient of a filter as a convolution of the pictures
with kernels as large as they are. Where the first derivative is written as a transposed convolution
(as Karras et al. 2020 do in StyleGAN2-ADA), its derivative is an ordinary backward pass, at which
every backend is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_inputs_only = False


@contextmanager
def inputs_only() -> Iterator[None]:
    """Inside, `torch.autograd.grad` is asked for gradients of pictures, and of no filters.

    A function of Python's cannot see which gradients are wanted, and would compute both.
    """
    global _inputs_only
    before, _inputs_only = _inputs_only, True
    try:
        yield
    finally:
        _inputs_only = before


class TwiceDifferentiable(TorchFunctionMode):
    """Inside, two-dimensional convolutions are of the kind that is described above.

    Pictures that enter a network as leaves get their gradient inside `inputs_only` and not from a
    loss, whose backward pass is over the networks' weights.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        named = named or {}
        if function is F.conv2d and torch.is_grad_enabled():
            return _conv2d(*arguments, **named)
        return function(*arguments, **named)


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    geometry = (_pair(stride), _pair(padding), _pair(dilation), groups)
    output: Tensor = _Convolution.apply(input, weight, geometry)  # type: ignore[no-untyped-call]
    return output if bias is None else output + bias[:, None, None]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, geometry: Any) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.geometry = geometry
        stride, padding, dilation, groups = geometry
        return F.conv2d(inputs, weight, None, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        inputs, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        of_inputs = of_weight = None
        # Pictures are leaves: nobody wants their gradient but the penalty.
        if ctx.needs_input_grad[0] and (_inputs_only or not inputs.is_leaf):
            # Rows and columns at the far edge that no stride reached get nothing.
            rest = tuple(
                size - ((out - 1) * step - 2 * pad + wide * (kernel - 1) + 1)
                for size, out, step, pad, wide, kernel in zip(
                    inputs.shape[2:], gradient.shape[2:], stride, padding, dilation,
                    weight.shape[2:], strict=True,
                )
            )  # fmt: skip
            of_inputs = F.conv_transpose2d(
                gradient, weight, None, stride, padding, rest, groups, dilation
            )
        if ctx.needs_input_grad[1] and not _inputs_only:
            _, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient, inputs, weight, None, stride, padding, dilation, False, (0, 0), groups,
                (False, True, False),
            )  # fmt: skip
        return of_inputs, of_weight, None
