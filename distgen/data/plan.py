"""`distgen data plan`: what streaming a set of some size will cost, before there is such a set.

Pure arithmetic over what the code does (`data.order`, `data.read`, `data.pages`, `data.index`) and
over costs of this machine and of the store, which are parameters. How well the order mixes is not
estimated: some of its blocks are made and looked at.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from distgen.core.errors import UsageError
from distgen.data.index import INDEX_CACHE_ROWS, INDEX_WHOLE_BYTES, ShardSet
from distgen.data.quality import (
    adjacent_correlation,
    chi_squared_of_positions,
    shards_per_batch,
)
from distgen.data.streaming.mixed import Pictures
from distgen.data.streaming.order import Order, shape_of
from distgen.data.streaming.pages import CONNECTIONS, PAGE_BYTES
from distgen.data.streaming.read import READ_AHEAD_MIB

_MIB = 1 << 20
_SHARD_BYTES = 256 * _MIB  # what `distgen data build` writes
_MUCH = 1.5  # times as many bytes as are used
_QUALITY_BLOCKS = 16
_PREFETCHED = 6  # batches that are ready or in work, and the two around them


@dataclass(frozen=True)
class Costs:
    """What the estimates are made of. Times were measured on one core of a small machine."""

    process_s: float = 0.7
    """Starting Python and importing `distgen.data`."""
    process_bytes: float = 95e6
    """Memory of that."""
    manifest_bytes: float = 175
    """Size of the manifest, for each shard."""
    manifest_s: float = 7e-6
    """Reading it and its fingerprint, for each shard."""
    manifest_memory: float = 1200
    """Memory in bytes that it takes, for each shard."""
    index_columns: float = 10
    """Columns of the index: four, and three for each member of a sample."""
    footer_bytes: float = 105
    """Size of the index's footer, for each shard and column."""
    footer_s: float = 1.8e-6
    """Reading it, for each shard and column."""
    footer_memory: float = 1070
    """Memory in bytes that it takes, for each shard and column."""
    row_bytes: float = 33
    """Size of the index's rows, for each sample."""
    row_memory: float = 32
    """Memory in bytes of rows that are in use, for each sample."""
    row_requests: float = 4
    """Requests for the rows of a shard, where the index is too large to be read at once."""
    order_s: float = 5e-7
    """Making the order of an epoch, for each shard."""
    order_memory: float = 130
    """Memory in bytes that it takes at its peak, for each shard."""
    latency_s: float = 0.05
    """From a request to the first byte of its answer."""
    connection_bytes_per_s: float = 50e6
    """Bytes that one connection to the store gives in a second."""


@dataclass(frozen=True)
class Workload:
    """What is to be streamed, and by whom.

    Args:
        samples: Pictures of the set.
        shards: Its tars, taken to be of one size.
        ranks: Workers that share a batch.
        sample_bytes: Mean bytes of a sample in a tar, with headers and padding.
        batch_size: Images of a global batch.
        images_per_s: Images that one rank takes in a second.
        height: Rows of a picture, in pixels.
        width: Columns of a picture, in pixels.
        channels: 1 or 3.
        lanes: See `Order`.
        shuffle_window: See `Order`.

    Raises:
        UsageError: A number is not positive, or they do not go together.
    """

    samples: int
    shards: int
    ranks: int
    sample_bytes: int = 20_000
    batch_size: int = 65_536
    images_per_s: float = 1000.0
    height: int = 256
    width: int = 256
    channels: int = 3
    lanes: int = 64
    shuffle_window: int = 16_384

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not 0 < value <= 1e15:
                raise UsageError(f"{each.name} is {value}; it has to be positive.")
        if self.samples < self.shards:
            raise UsageError(f"{self.samples} samples do not fill {self.shards} shards.")
        if self.batch_size < self.ranks:
            raise UsageError(
                f"A batch of {self.batch_size} leaves some of {self.ranks} ranks without an image.",
                remedy=f"a batch size of at least {self.ranks}",
            )


@dataclass(frozen=True)
class Reads:
    """What a rank asks the store for.

    `lanes` it reads of; `share` of a lane's window it takes; `amplification`: bytes it reads for
    each byte that it uses; `window_bytes`: pages of all its lanes' windows.
    """

    lanes: int
    share: float
    amplification: float
    window_bytes: float


@dataclass(frozen=True)
class Plan:
    """The estimates. Times in seconds, sizes in bytes, all for one rank unless said otherwise."""

    start_up_s: dict[str, float]
    memory_bytes: dict[str, float]
    requests_per_s: float
    bytes_per_s: float
    amplification: float
    set_bytes: float
    index_bytes: float
    epoch_s: float
    egress_bytes_per_epoch: float
    """Of all ranks."""
    memory_cache_bytes_per_host: float
    """All pictures, decoded."""
    disk_cache_bytes_per_host: float
    """All shards: a rank's lanes lie elsewhere in every epoch."""
    quality: dict[str, float]
    advice: tuple[str, ...]
    workload: Workload
    costs: Costs

    @property
    def start_up_total_s(self) -> float:
        """Seconds until the first batch."""
        return sum(self.start_up_s.values())

    @property
    def memory_total_bytes(self) -> float:
        """Memory of a rank at its peak."""
        return sum(self.memory_bytes.values())

    def as_json(self) -> dict[str, Any]:
        """All of it, with the sums."""
        sums = {
            "start_up_total_s": self.start_up_total_s,
            "memory_total_bytes": self.memory_total_bytes,
        }
        return sums | asdict(self)


def plan(workload: Workload, costs: Costs | None = None) -> Plan:
    """What streaming this will cost."""
    costs = costs or Costs()
    read = reads(workload)
    memory = _memory(workload, costs, read)
    used = workload.images_per_s * workload.sample_bytes
    set_bytes = float(workload.samples * workload.sample_bytes)
    pixels = workload.height * workload.width * workload.channels
    return Plan(
        start_up_s=_start_up(workload, costs, read),
        memory_bytes=memory,
        requests_per_s=used * read.amplification / PAGE_BYTES,
        bytes_per_s=used * read.amplification,
        amplification=read.amplification,
        set_bytes=set_bytes,
        index_bytes=_index_bytes(workload, costs),
        epoch_s=workload.samples / (workload.images_per_s * workload.ranks),
        egress_bytes_per_epoch=set_bytes * read.amplification,
        memory_cache_bytes_per_host=float(workload.samples * pixels),
        disk_cache_bytes_per_host=set_bytes,
        quality=_quality(workload),
        advice=_advice(workload, costs, read, memory),
        workload=workload,
        costs=costs,
    )


def reads(workload: Workload) -> Reads:
    """What a rank reads from a store, by pages, each fetched once while its window is in use."""
    lanes, depth = shape_of(workload.samples, workload.lanes, workload.shuffle_window)
    # Rank r has the positions r, r + ranks, ... of each batch, and position p is of lane p mod
    # lanes. Batches begin at all lanes that are a multiple of `stride` away from the first.
    stride = math.gcd(workload.batch_size, lanes)
    steps = min(
        -(-workload.batch_size // workload.ranks), stride // math.gcd(workload.ranks, stride)
    )
    mine = steps * lanes // stride
    share = lanes / (workload.ranks * mine)
    touching = (PAGE_BYTES + workload.sample_bytes) / workload.sample_bytes
    touched = 1 - (1 - share) ** touching
    window_bytes = mine * max(depth * workload.sample_bytes * touched, PAGE_BYTES)
    return Reads(mine, share, touched / share, window_bytes)


def _index_bytes(workload: Workload, costs: Costs) -> float:
    return _footer_bytes(workload, costs) + workload.samples * costs.row_bytes


def _footer_bytes(workload: Workload, costs: Costs) -> float:
    return workload.shards * costs.index_columns * costs.footer_bytes


def _open_shards(workload: Workload, read: Reads) -> float:
    """Shards that hold a window of a rank's lanes, on average."""
    _, depth = shape_of(workload.samples, workload.lanes, workload.shuffle_window)
    in_one = 1 + (depth - 1) * workload.shards / workload.samples
    return min(read.lanes * in_one, workload.shards)


def _start_up(workload: Workload, costs: Costs, read: Reads) -> dict[str, float]:
    """Seconds until the first batch, by what they are spent on."""

    def fetch(size: float, requests: float = 1) -> float:
        return requests * costs.latency_s + size / costs.connection_bytes_per_s

    shards, columns = workload.shards, costs.index_columns
    whole = _index_bytes(workload, costs)
    at_once = whole <= INDEX_WHOLE_BYTES
    rows = _open_shards(workload, read) * (0 if at_once else costs.row_requests)
    pages = read.window_bytes / PAGE_BYTES
    wanted = workload.batch_size / workload.ranks * (1 + workload.sample_bytes / PAGE_BYTES)
    first_pages = pages * (1 - (1 - min(1, 1 / pages)) ** wanted)
    return {
        "process": costs.process_s,
        "manifest": fetch(shards * costs.manifest_bytes) + shards * costs.manifest_s,
        "index": fetch(whole if at_once else _footer_bytes(workload, costs), 2)
        + shards * columns * costs.footer_s,
        "index_rows": rows * costs.latency_s,
        "order": shards * costs.order_s,
        "first_pages": math.ceil(first_pages / CONNECTIONS) * fetch(PAGE_BYTES),
    }


def _memory(workload: Workload, costs: Costs, read: Reads) -> dict[str, float]:
    """Bytes that a rank holds, by what they are for."""
    shard_rows = workload.samples / workload.shards
    rows = min(_open_shards(workload, read) * 2 * shard_rows, INDEX_CACHE_ROWS + shard_rows)
    pixels = workload.height * workload.width * workload.channels
    return {
        "process": costs.process_bytes,
        "manifest": workload.shards * costs.manifest_memory,
        "index": workload.shards * costs.index_columns * costs.footer_memory,
        "index_rows": rows * costs.row_memory,
        "order": workload.shards * costs.order_memory,
        # The window that is read, and half of the next one.
        "pages": min(1.5 * read.window_bytes, READ_AHEAD_MIB * _MIB),
        "batches": _PREFETCHED * math.ceil(workload.batch_size / workload.ranks) * pixels,
    }


def _quality(workload: Workload) -> dict[str, float]:
    """How well the order mixes, by blocks that are spread over an epoch."""
    share, longer = divmod(workload.samples, workload.shards)
    counts = (share + 1,) * longer + (share,) * (workload.shards - longer)
    order = Order(counts, "plan", lanes=workload.lanes, shuffle_window=workload.shuffle_window)
    lanes, depth = shape_of(workload.samples, workload.lanes, workload.shuffle_window)
    block = lanes * depth
    blocks = max(1, workload.samples // block)
    chosen = np.unique(np.linspace(0, blocks - 1, _QUALITY_BLOCKS, dtype=np.int64))
    parts = [order.indices(number * block + np.arange(block)) for number in chosen.tolist()]
    sequence = np.concatenate(parts)
    batch_size = min(workload.batch_size, len(sequence))
    return {
        "adjacent_correlation": adjacent_correlation(sequence),
        "chi_squared": chi_squared_of_positions(sequence, workload.samples),
        "shards_per_batch": shards_per_batch(sequence, np.cumsum(counts), batch_size),
    }


def _advice(
    workload: Workload, costs: Costs, read: Reads, memory: dict[str, float]
) -> tuple[str, ...]:
    """What would be better, with what it would give."""
    advice = []
    if memory["index"] + memory["manifest"] > 1 << 30:
        shards = max(1, round(workload.samples * workload.sample_bytes / _SHARD_BYTES))
        if shards < workload.shards:
            fewer = replace(workload, shards=shards)
            better = plan_memory(fewer, costs)
            advice.append(
                f"Every rank keeps the index of all shards: with {shards:,} shards of 256 MiB it "
                f"would need {better / _MIB:,.0f} MiB instead of "
                f"{sum(memory.values()) / _MIB:,.0f} MiB."
            )
    sharing = _sharing(workload, read)
    if sharing:
        advice.append(sharing)
    if workload.batch_size % workload.lanes and workload.samples > workload.shuffle_window:
        advice.append(
            f"Ranks read of more lanes than they need to, because a batch of "
            f"{workload.batch_size} is no multiple of lanes={workload.lanes}."
        )
    return tuple(advice)


def sharing_advice(
    pictures: Pictures, *, ranks: int, batch_size: int, lanes: int, shuffle_window: int
) -> str | None:
    """What to change where ranks of a run would read much of a store for nothing, in words.

    Of a mix nothing is said: its sets take turns, and each may lie elsewhere.
    """
    if not isinstance(pictures, ShardSet) or pictures.location.local is not None:
        return None
    workload = Workload(
        samples=pictures.num_samples,
        shards=len(pictures.manifest.shards),
        ranks=ranks,
        sample_bytes=sum(s.bytes for s in pictures.manifest.shards) // pictures.num_samples,
        batch_size=batch_size,
        lanes=lanes,
        shuffle_window=shuffle_window,
    )
    return _sharing(workload, reads(workload))


def _sharing(workload: Workload, read: Reads) -> str | None:
    lanes = math.lcm(workload.ranks, workload.lanes)
    if read.amplification <= _MUCH or lanes > workload.batch_size:
        return None
    window = workload.shuffle_window * lanes // workload.lanes
    amplification = reads(replace(workload, lanes=lanes, shuffle_window=window)).amplification
    if amplification >= read.amplification:
        return None
    return (
        f"Ranks share lanes, so each reads {read.amplification:.1f} times what it uses: "
        f"with lanes={lanes} and shuffle_window={window} it would be {amplification:.1f}."
    )


def plan_memory(workload: Workload, costs: Costs) -> float:
    """Bytes that a rank holds in all."""
    return sum(_memory(workload, costs, reads(workload)).values())
