"""The order in which samples come: a pure function of (fingerprint, seed, epoch, position).

An epoch is laid out in three steps, none of which knows of ranks, threads or files:

1. The shards are permuted and their samples concatenated; the result is turned by a random number
   of samples, so that the cuts of step 2 fall elsewhere in every epoch, even in a single shard.
2. The sequence is cut into `lanes` spans whose lengths differ by at most one. Position p of the
   epoch belongs to lane p mod lanes, slot p div lanes.
3. Inside a lane, slots are shuffled in windows of `shuffle_window / lanes`. Windows with the same
   number form one block of consecutive positions, which is computed at once.

A set of at most `shuffle_window` samples is one lane with one window: a uniform permutation.

Any batch of any epoch costs O(shards + shuffle_window) time and memory. Random bits come from
NumPy's Philox counter (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") and are
turned into permutations by a stable sort, so that they do not depend on the NumPy version.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from distgen.core.errors import UsageError, did_you_mean
from distgen.core.seeding import derive
from distgen.core.world import World

EpochEnd = Literal["carry", "drop", "pad"]
EPOCH_ENDS: tuple[str, ...] = get_args(EpochEnd)

# A change of the order is a change of what every run means: raise it, and say so in the release.
ORDER_VERSION = 1

# Results that are kept, so that the batches of a block share them. A batch lies in two epochs at
# most, and for a million shards a layout is 16 MB and a third of a second.
_KEPT = {"block": 8, "layout": 2}
_ALONE = World()

_Key = tuple[str, int] | tuple[str, int, int]
"""What is kept, of which epoch, and which block of it."""


@dataclass(frozen=True)
class Order:
    """The order of one shard set under one seed.

    Args:
        shard_samples: Samples of every shard.
        fingerprint: Digest of the set; sets with other contents get another order.
        seed: The run's seed.
        lanes: Places of the set that are read side by side.
        shuffle_window: Samples, over all lanes, among which neighbours are shuffled.
        shuffle: False gives the samples as they lie.
        epoch_end: `carry`: the last batch of an epoch borrows from the next, so every sample
            comes exactly once per epoch and every batch is full; `drop`: what does not fill a
            batch is left out; `pad`: the last batch is filled up with repeats of weight 0.

    Raises:
        UsageError: A size is not positive or `epoch_end` is unknown.
    """

    shard_samples: tuple[int, ...]
    fingerprint: str
    seed: int = 0
    lanes: int = 64
    shuffle_window: int = 16_384
    shuffle: bool = True
    epoch_end: EpochEnd = "carry"
    _memo: dict[_Key, tuple[np.ndarray, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not self.shard_samples or min(self.shard_samples) < 1:
            raise UsageError("A shard set needs at least one sample in every shard.")
        for name in ("lanes", "shuffle_window"):
            if getattr(self, name) < 1:
                raise UsageError(f"data.{name} is {getattr(self, name)}; it has to be at least 1.")
        if self.epoch_end not in EPOCH_ENDS:
            raise UsageError(
                f"epoch_end {self.epoch_end!r} is unknown.",
                remedy=did_you_mean(self.epoch_end, EPOCH_ENDS),
            )

    @functools.cached_property  # a million shards take 10 ms to add up, and every batch asks
    def num_samples(self) -> int:
        """Samples in an epoch."""
        return sum(self.shard_samples)

    def batches_per_epoch(self, batch_size: int) -> int:
        """Batches that begin in an epoch, rounded up except where the rest is dropped.

        Raises:
            UsageError: No batch would come, because an epoch is smaller than one and drops it.
        """
        if self.epoch_end == "drop":
            if batch_size > self.num_samples:
                raise UsageError(
                    f"A batch of {batch_size} is larger than the {self.num_samples} samples of "
                    "the shard set, and epoch_end=drop leaves out what does not fill a batch.",
                    remedy="a smaller batch_size, or epoch_end=carry",
                )
            return self.num_samples // batch_size
        return -(-self.num_samples // batch_size)

    def batch(
        self, images_seen: int, batch_size: int, world: World = _ALONE
    ) -> tuple[np.ndarray, np.ndarray]:
        """What this rank gets of the global batch that begins after `images_seen` images.

        Returns:
            Indices into the shard set, int64 [n], and weights, float32 [n]: 0 for padding, else 1.

        Raises:
            UsageError: `images_seen` is inside a batch and `epoch_end` is not `carry`.
        """
        offsets = np.arange(world.rank, batch_size, world.size, dtype=np.int64)
        if self.epoch_end == "carry":
            positions = images_seen + offsets
            return self.indices(positions), np.ones(len(offsets), np.float32)
        self.check_start(images_seen, batch_size)
        epoch, number = divmod(images_seen // batch_size, self.batches_per_epoch(batch_size))
        places = number * batch_size + offsets
        weights = (places < self.num_samples).astype(np.float32)
        return self.indices(epoch * self.num_samples + places), weights

    def check_start(self, images_seen: int, batch_size: int) -> None:
        """Raise unless a batch can begin after `images_seen` images.

        Raises:
            UsageError: It is inside a batch and `epoch_end` is not `carry`.
        """
        if self.epoch_end != "carry" and images_seen % batch_size:
            raise UsageError(
                f"Position {images_seen} is inside a batch of {batch_size}.",
                cause=f"with epoch_end={self.epoch_end} a stream can begin only between batches",
            )

    def indices(self, positions: np.ndarray) -> np.ndarray:
        """The samples at positions counted over all epochs, both int64 [n]."""
        epochs, places = np.divmod(positions, self.num_samples)
        if not self.shuffle:
            return places
        lanes, depth = shape_of(self.num_samples, self.lanes, self.shuffle_window)
        blocks, insides = np.divmod(places, lanes * depth)
        blocks_per_epoch = -(-self.num_samples // (lanes * depth))
        numbers = epochs * blocks_per_epoch + blocks
        result = np.empty_like(positions)
        for number in np.unique(numbers).tolist():
            chosen = numbers == number
            result[chosen] = self._block(*divmod(number, blocks_per_epoch))[insides[chosen]]
        return result

    def _block(self, epoch: int, number: int) -> np.ndarray:
        """The samples at one block of consecutive positions of an epoch."""
        key = ("block", epoch, number)
        kept = self._memo.get(key)
        if kept is None:
            lanes, depth = shape_of(self.num_samples, self.lanes, self.shuffle_window)
            seed = self._derive("window", epoch, number)
            places = _block_places(self.num_samples, lanes, depth, number, seed)
            starts, ends, turn = self._layout(epoch)
            places = (places + turn) % self.num_samples
            # Where in the permuted sequence -> where in the set as it lies.
            shard = np.searchsorted(ends, places, side="right")
            kept = self._remember(key, (starts[shard] + places,))
        return kept[0]

    def _layout(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shards in the epoch's order: what takes a place to its index, where each ends; turn."""
        key = ("layout", epoch)
        kept = self._memo.get(key)
        if kept is None:
            counts = np.asarray(self.shard_samples, dtype=np.int64)
            first = np.cumsum(counts) - counts
            permutation = np.argsort(
                random_bits(self._derive("shards", epoch), len(counts)), kind="stable"
            )
            ends = np.cumsum(counts[permutation])
            shift = first[permutation] - (ends - counts[permutation])
            turn = np.asarray(self._derive("turn", epoch) % self.num_samples, dtype=np.int64)
            kept = self._remember(key, (shift, ends, turn))
        shift, ends, turn = kept
        return shift, ends, turn

    def _derive(self, purpose: str, *place: int) -> int:
        return derive(self.seed, f"order-{ORDER_VERSION}", self.fingerprint, purpose, *place)

    def _remember(self, key: _Key, value: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        self._memo[key] = value
        alike = [old for old in list(self._memo) if old[0] == key[0]]
        for old in alike[: -_KEPT[key[0]]]:
            self._memo.pop(old, None)
        return value


def shape_of(num_samples: int, lanes: int, shuffle_window: int) -> tuple[int, int]:
    """Number of lanes, and samples of a lane's window."""
    if num_samples <= shuffle_window:
        return 1, num_samples
    return lanes, max(1, shuffle_window // lanes)


def _block_places(num_samples: int, lanes: int, depth: int, number: int, seed: int) -> np.ndarray:
    """Places in the uncut sequence, int64 [positions of the block], in the order they come."""
    first = number * depth * lanes
    length = min(depth * lanes, num_samples - first)
    slots = -(-length // lanes)
    keys = random_bits(seed, lanes * slots).reshape(lanes, slots)
    # In the last block of an epoch some lanes have one slot less: the missing one sorts last.
    keys[length - (slots - 1) * lanes :, -1] = np.iinfo(np.uint64).max
    shuffled = np.argsort(keys, axis=1, kind="stable")
    share, longer = divmod(num_samples, lanes)
    lane = np.arange(lanes, dtype=np.int64)
    starts = lane * share + np.minimum(lane, longer)
    places = starts[:, None] + number * depth + shuffled
    return np.ascontiguousarray(places.T).reshape(-1)[:length]


def random_bits(seed: int, count: int) -> np.ndarray:
    """Uniform 64-bit words, uint64 [count]; raw Philox output is the same in every NumPy."""
    return np.asarray(np.random.Philox(key=seed).random_raw(count), dtype=np.uint64)
