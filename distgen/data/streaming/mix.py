"""Which set comes at which position of a mix: a pure function of (weights, seed, position).

Positions are laid out in blocks that hold a whole number of samples of every set. In a block of W
positions, a set with w of them gets sample j in one of the positions from floor(j W / w) to
ceil((j + 1) W / w) - 1, one position each. So before every position the samples of each set differ
from its share by less than one; this is proportionate progress (Baruah, Cohen, Plaxton and Varvel
1996), and handing out positions by earliest deadline finds such a plan whatever the weights are.
Which of the plans it is differs from block to block: with a fixed one and weights of 1 and 1, every
second rank would see only one of the sets.

A set goes through its own samples in its own order, as if it were alone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

import numpy as np

from distgen.core.errors import UsageError
from distgen.core.seeding import derive
from distgen.core.world import World
from distgen.data.streaming.order import EpochEnd, Order, random_bits

# A change of the plan is a change of what every run on a mix means.
MIX_VERSION = 1

MAX_WEIGHTS = 1 << 20
"""Largest sum of weights, as whole numbers without a common divisor; a plan is this long."""
_BLOCK = 16_384
_MEMO_ENTRIES = 8
_SWAPS = 64  # as many as a random word has bits
_ALONE = World()


class SampleOrder(Protocol):
    """What a stream needs of an order; `Order` says what each part means."""

    @property
    def num_samples(self) -> int: ...  # noqa: D102

    @property
    def epoch_end(self) -> EpochEnd: ...  # noqa: D102

    def indices(self, positions: np.ndarray) -> np.ndarray: ...  # noqa: D102

    def batches_per_epoch(self, batch_size: int) -> int: ...  # noqa: D102

    def batch(  # noqa: D102
        self, images_seen: int, batch_size: int, world: World = _ALONE
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def check_start(self, images_seen: int, batch_size: int) -> None: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class ChosenOrder:
    """The order of some samples, as indices among all.

    Args:
        order: The order of the chosen samples, counted among themselves.
        places: Their places in their set, int64 [n]; None: all of them.
        first: Index of the first sample of their set.
    """

    order: Order
    places: np.ndarray | None = None
    first: int = 0

    @property
    def num_samples(self) -> int:
        """Samples in an epoch."""
        return self.order.num_samples

    @property
    def epoch_end(self) -> EpochEnd:
        """What the last batch of an epoch does."""
        return self.order.epoch_end

    def indices(self, positions: np.ndarray) -> np.ndarray:
        """The samples at positions counted over all epochs, both int64 [n]."""
        return self._among_all(self.order.indices(positions))

    def batches_per_epoch(self, batch_size: int) -> int:
        """See `Order.batches_per_epoch`."""
        return self.order.batches_per_epoch(batch_size)

    def batch(
        self, images_seen: int, batch_size: int, world: World = _ALONE
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Order.batch`."""
        indices, weights = self.order.batch(images_seen, batch_size, world)
        return self._among_all(indices), weights

    def check_start(self, images_seen: int, batch_size: int) -> None:
        """See `Order.check_start`."""
        self.order.check_start(images_seen, batch_size)

    def _among_all(self, indices: np.ndarray) -> np.ndarray:
        return self.first + (indices if self.places is None else self.places[indices])


@dataclass(frozen=True, eq=False)
class MixOrder:
    """The order of a mix. An epoch is as many samples as its sets have; they repeat as they must.

    Args:
        orders: The order of each set.
        weights: How often each comes, relative to the others.
        fingerprint: Digest of the mix.
        seed: The run's seed.

    Raises:
        UsageError: The weights cannot be kept exactly within `MAX_WEIGHTS` positions.
    """

    orders: tuple[SampleOrder, ...]
    weights: tuple[Fraction, ...]
    fingerprint: str
    seed: int = 0
    epoch_end: EpochEnd = "carry"
    _memo: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.epoch_end != "carry":
            raise UsageError(
                f"A mix cannot end its epochs with epoch_end={self.epoch_end}.",
                cause="its sets end theirs at different positions",
                remedy="epoch_end=carry, or one set without data.balance",
            )
        block_counts(self.weights)

    @property
    def num_samples(self) -> int:
        """Samples in an epoch."""
        return sum(order.num_samples for order in self.orders)

    def batches_per_epoch(self, batch_size: int) -> int:
        """Batches that begin in an epoch."""
        return -(-self.num_samples // batch_size)

    def batch(
        self, images_seen: int, batch_size: int, world: World = _ALONE
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Order.batch`; weights are 1."""
        positions = images_seen + np.arange(world.rank, batch_size, world.size, dtype=np.int64)
        return self.indices(positions), np.ones(len(positions), np.float32)

    def check_start(self, images_seen: int, batch_size: int) -> None:
        """A mix can begin anywhere."""

    def indices(self, positions: np.ndarray) -> np.ndarray:
        """The samples at positions counted from the begin of the run, both int64 [n]."""
        numbers, slots = np.divmod(positions, sum(block_counts(self.weights)))
        result = np.empty_like(positions)
        for number in np.unique(numbers).tolist():
            chosen = numbers == number
            result[chosen] = self._block(number)[slots[chosen]]
        return result

    def _block(self, number: int) -> np.ndarray:
        """The samples of one block of positions."""
        block = self._memo.get(number)
        if block is None:
            counts = block_counts(self.weights)
            plan = schedule(
                counts, derive(self.seed, f"mix-{MIX_VERSION}", self.fingerprint, number)
            )
            # Slots of the first set, then of the second, ..., each in the order they come.
            slots = np.split(np.argsort(plan, kind="stable"), np.cumsum(counts)[:-1])
            block = np.empty(len(plan), np.int64)
            for order, count, mine in zip(self.orders, counts, slots, strict=True):
                block[mine] = order.indices(number * count + np.arange(count, dtype=np.int64))
            self._memo[number] = block
            for old in list(self._memo)[:-_MEMO_ENTRIES]:
                self._memo.pop(old, None)
        return block


def block_counts(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Samples of every set in a block: multiples of the smallest whole numbers with these ratios.

    Raises:
        UsageError: A weight is not positive, or these numbers add up to more than `MAX_WEIGHTS`.
    """
    if min(weights) <= 0:
        raise UsageError("Every weight of a mix has to be positive.")
    common = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * common) for weight in weights]
    divisor = math.gcd(*whole)
    whole = [count // divisor for count in whole]
    total = sum(whole)
    if total > MAX_WEIGHTS:
        raise UsageError(
            "The weights of this mix are too uneven to be kept exactly.",
            cause=f"as whole numbers they add up to {total:,}; the limit is {MAX_WEIGHTS:,}",
            remedy="weights with fewer digits, such as 0.7 and 0.3",
        )
    return tuple(count * -(-_BLOCK // total) for count in whole)


def schedule(counts: Sequence[int], seed: int) -> np.ndarray:
    """A random plan in which every set's part of each prefix differs from its share by less than 1.

    Args:
        counts: Positions of each set; all are positive.
        seed: Chooses among the possible plans.

    Returns:
        The set at every position, int64 [sum of counts].
    """
    length = sum(counts)
    owners = np.repeat(np.arange(len(counts)), counts)
    places = [np.arange(count, dtype=np.int64) for count in counts]
    pairs = list(zip(places, counts, strict=True))
    earliest = np.concatenate([place * length // count for place, count in pairs])
    deadlines = np.concatenate([-(-(place + 1) * length // count) for place, count in pairs])
    bits = random_bits(seed, 2 * length)
    ranks = np.empty(length, np.int64)
    by_rank = np.lexsort((bits[:length], deadlines))
    ranks[by_rank] = np.arange(length)
    samples = by_rank[_earliest_deadline_first(earliest, ranks)]
    _swap_neighbours(samples, earliest, deadlines, bits[length:])
    return np.asarray(owners[samples])


def _earliest_deadline_first(earliest: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The rank at every position: the lowest of those that may come there and have not."""
    waiting: list[int] = []
    result = []
    order = np.argsort(earliest, kind="stable")
    coming = list(zip(earliest[order].tolist(), ranks[order].tolist(), strict=True))[::-1]
    for position in range(len(ranks)):
        while coming and coming[-1][0] <= position:
            heapq.heappush(waiting, coming.pop()[1])
        result.append(heapq.heappop(waiting))
    return np.array(result, np.int64)


def _swap_neighbours(
    samples: np.ndarray, earliest: np.ndarray, deadlines: np.ndarray, bits: np.ndarray
) -> None:
    """Change places at random where both samples may: alone, ties would be all that is random."""
    for swap in range(_SWAPS):
        left = np.arange(swap % 2, len(samples) - 1, 2)
        first, second = samples[left], samples[left + 1]
        allowed = (earliest[second] <= left) & (deadlines[first] > left + 1)
        chosen = left[allowed & ((bits[left] >> np.uint64(swap)) & np.uint64(1)).astype(np.bool_)]
        samples[chosen], samples[chosen + 1] = samples[chosen + 1], samples[chosen]
