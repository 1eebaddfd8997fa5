"""What a process that trains is told before its first step."""

from __future__ import annotations

import torch

from distgen.core.heap import keep_freed_memory


def suit_process(device: torch.device) -> None:
    """Let this process train well on `device`."""
    if device.type == "cpu":
        keep_freed_memory()
    else:
        # Steps are alike: the fastest kernels for their shapes are worth a search.
        torch.backends.cudnn.benchmark = True
        # What is not bf16 is meant to be exact: gradients of gradients, and what cards measure.
        # By default convolutions would round their inputs to TF32, ten bits of mantissa.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
