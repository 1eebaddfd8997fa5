"""Which network interface the ranks of a run talk through."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from distgen.core.machine import INTERFACE, interface_of, own_interfaces


class InterfaceTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray's torch set-up, after each worker has been told its network interface."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Ray asks for the class that sets up the process group."""
        return _InterfaceTorchBackend


class _InterfaceTorchBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


def choose_interface() -> None:
    """Let gloo use the interface that carries this node's address in the cluster.

    By itself gloo takes what the host name resolves to, which on many hosts is loopback, and
    ranks on other hosts are then refused. What the user has set stays.
    """
    if os.environ.get(INTERFACE):
        return
    name = interface_of(ray.util.get_node_ip_address(), own_interfaces())
    if name is not None:
        os.environ[INTERFACE] = name
