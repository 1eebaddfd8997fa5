"""How the ranks of a run find one another on a Ray cluster.

Ray's own set-up for torch would load it in the controller as well, which has no use for it.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Literal

import ray
from ray.train.backend import Backend, BackendConfig

from distgen.core.machine import INTERFACE, gloo_interface
from distgen.core.world import World


class Ranks(BackendConfig):  # type: ignore[misc]
    """Tells Ray Train's controller what the ranks of a run need of it."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Ray asks for the class that sets workers up."""
        return _SeeAllDevices


class _SeeAllDevices(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True
    """NCCL goes from one GPU of a host to another directly where each rank sees both."""


def joined(world: World, backend: Literal["gloo", "nccl"]) -> AbstractContextManager[None]:
    """The process group of all ranks of the worker group that this process is one of."""
    from ray.train.collective import broadcast_from_rank_zero

    from distgen.training import group  # which loads torch

    return group.joined(world, backend, ray.util.get_node_ip_address(), broadcast_from_rank_zero)


def choose_interface() -> None:
    """Let gloo use the interface that carries this node's address in the cluster.

    By itself gloo takes what the host name resolves to, which on many hosts is loopback, and
    ranks on other hosts are then refused. What the user has set stays.
    """
    name = gloo_interface(ray.util.get_node_ip_address())
    if name is not None:
        os.environ[INTERFACE] = name
