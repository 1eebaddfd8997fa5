"""Clusters that nobody but this machine can reach.

Ray's token does not cover the ports on which its processes show metrics, and a node with the
address of a network card opens every port of its to the network. A node whose address is 127.0.0.1
opens all of them on loopback only. Ray gives nodes that address where its switch `SWITCH` is off,
as it is on systems whose firewall asks about each port; there it starts heads only, so nodes that
join a head of the same machine are started by this module: `python -m distgen.launch.loopback`
is `ray start`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from distgen.core.ports import answers, is_loopback

ADDRESS = "127.0.0.1"
SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def on_loopback(wanted: bool = True) -> Iterator[None]:
    """Inside, Ray takes 127.0.0.1 for this machine's address, and so do processes started here."""
    from ray._private import ray_constants

    if not wanted:
        yield
        return
    before, switched = os.environ.get(SWITCH), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[SWITCH] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = switched
        os.environ.pop(SWITCH)
        if before is not None:
            os.environ[SWITCH] = before


def listens_on_loopback_only(gcs: str) -> bool:
    """Whether the head at `host:port` is one of this machine that has no other address."""
    host, _, port = gcs.rpartition(":")
    if not is_loopback(host):
        return False
    from ray.util import get_node_ip_address

    return not answers(get_node_ip_address(), int(port))


def main() -> None:
    """`ray` with its command line, every port of its node on loopback."""
    from ray._private import services
    from ray.scripts import scripts

    # Ray has read its switch by now; the processes that it starts read it again.
    os.environ[SWITCH] = "0"
    services.get_node_ip_address = lambda address=None: ADDRESS  # noqa: ARG005
    # Nobody speaks to it over `ray://`: a process and a port less.
    scripts.get_ray_client_dependency_error = lambda: "not wanted"
    sys.argv[0] = "ray"
    scripts.main()


if __name__ == "__main__":
    main()
