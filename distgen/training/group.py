"""The process group through which the ranks of a run talk."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch.distributed as dist

from distgen.core.world import World

Place = tuple[str, int]
"""Host and port."""


@contextmanager
def joined(
    world: World,
    backend: Literal["gloo", "nccl"],
    host: str,
    from_first: Callable[[Place | None], Place],
) -> Iterator[None]:
    """Inside, this rank and the others are torch's process group.

    They meet at a port of rank 0 that is open before anybody hears of it, and on one address only.
    Where the block ends in an error the group stays as it is: NCCL would wait for the others.

    Args:
        world: This rank.
        backend: What the ranks talk with.
        host: Address of this rank's machine.
        from_first: Called by every rank, by rank 0 with the place and by others with None; returns
            the place.
    """
    store = _open_store(host, world) if world.is_main else None
    place = from_first((host, store.port) if store else None)
    store = store or dist.TCPStore(*place, world.size, False)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size)
    yield
    dist.destroy_process_group()


def _open_store(host: str, world: World) -> dist.TCPStore:  # type: ignore[name-defined]
    door = socket.create_server((host, 0))
    return dist.TCPStore(  # type: ignore[attr-defined]
        host,
        door.getsockname()[1],
        world.size,
        True,
        wait_for_workers=False,
        master_listen_fd=door.detach(),
    )
