"""How ranks share one evaluation: each makes whole blocks of rows, and all learn one result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from distgen.core.world import World

Gather = Callable[[np.ndarray], np.ndarray]
"""Joins the row blocks of all ranks, in rank order, on every rank; blocks may differ in length."""

Tell = Callable[[str], None]
"""Is told, now and then, how far one is; who is silent for minutes is taken for dead."""


def quiet(detail: str) -> None:
    """Nobody is told."""


def alone(rows: np.ndarray) -> np.ndarray:
    """The gather of a world of one."""
    return rows


@dataclass(frozen=True)
class Ranks:
    """One rank among those that evaluate together."""

    world: World = World()  # noqa: RUF009 - frozen
    gather: Gather = alone
    on_progress: Tell = quiet

    def blocks(self, count: int, size: int, what: str) -> Iterator[range]:
        """The blocks of `range(count)` that are this rank's, with progress reported after each.

        Blocks start at multiples of `size` whatever the number of ranks. A network rounds
        differently in batches of different lengths, so equal blocks are what makes the result of
        many ranks the result of one.
        """
        total = -(-count // size)
        world = self.world
        first, last = total * world.rank // world.size, total * (world.rank + 1) // world.size
        for number in range(first, last):
            yield range(number * size, min(count, (number + 1) * size))
            # The others go at about the same pace.
            done = min(count, (number + 1 - first) * size * world.size)
            self.on_progress(f"{what} {done:,}/{count:,}")

    def telling(self, what: str) -> Tell:
        """`on_progress` of a part of the work, whose details follow its name."""
        return lambda detail: self.on_progress(f"{what} {detail}")

    def join(self, parts: list[np.ndarray], row_shape: tuple[int, ...] = ()) -> np.ndarray:
        """All ranks' rows in order, from this rank's parts, which may be none."""
        empty = np.empty((0, *row_shape), dtype=parts[0].dtype if parts else np.float32)
        return self.gather(np.concatenate(parts) if parts else empty)

    def share(self, data: bytes) -> bytes:
        """Rank 0's bytes, on every rank; what the others give is ignored."""
        mine = data if self.world.is_main else b""
        return self.gather(np.frombuffer(mine, dtype=np.uint8)).tobytes()

    def agree(self, names: Iterable[str]) -> list[str]:
        """Rank 0's names, none of which holds a space, on every rank."""
        return self.share(" ".join(names).encode()).decode().split()
