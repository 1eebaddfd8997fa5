"""Who a process is among its peers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """A rank among `size` ranks. A value: nothing here talks to another process."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} is not in a world of size {self.size}")

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0


def slice_for(world: World, batch: range) -> range:
    """The part of a global batch that belongs to this rank; sizes differ by at most one."""
    return range(batch.start + world.rank, batch.stop, world.size)
