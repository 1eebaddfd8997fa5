"""What a sum over ranks costs on networks of a given latency and bandwidth.

A message of S bytes takes alpha + S / beta (Hockney 1994, "The communication challenge for MPP").
A ring of n ranks sums S bytes in 2 (n - 1) messages of S / n bytes each, which no other way betters
in bytes (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of
workstations"); gloo and nccl both have it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from distgen.core.errors import UsageError

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT])(b|B|bit|bps)(?:/s)?")
_PREFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Link:
    """What a message between two ranks takes."""

    latency_s: float
    """Seconds of a message without contents (alpha)."""
    bytes_per_s: float
    """Bytes per second in each direction (beta)."""


@dataclass(frozen=True)
class Memory:
    """What ranks of a host take that lay gradients where all of them read: `SharedMeans`."""

    meeting_s: float
    """Seconds until each of two ranks knows that both have come."""
    bytes_per_s: float
    """At which a rank reads and writes there."""


@dataclass(frozen=True)
class Cost:
    """Seconds of a sum, by what they are spent on."""

    latency_s: float = 0.0
    bandwidth_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Seconds of the whole sum."""
        return self.latency_s + self.bandwidth_s

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.latency_s + other.latency_s, self.bandwidth_s + other.bandwidth_s)

    def times(self, factor: float) -> Cost:
        """So many times as long."""
        return Cost(self.latency_s * factor, self.bandwidth_s * factor)


@dataclass(frozen=True)
class Cluster:
    """How ranks lie on hosts.

    Raises:
        UsageError: A host has no rank or no core.
    """

    per_host: int
    """Ranks of a full host."""
    inside: Link
    """Between ranks of a host."""
    between: Link
    """Between hosts: all of a host's network cards together, which its ranks share."""
    cores: int | None = None
    """CPU cores of a host, which its ranks share; None: enough."""
    memory: Memory | None = None
    """In which ranks of one host average gradients, where there are few; None: never."""

    def __post_init__(self) -> None:
        if self.per_host < 1:
            raise UsageError(
                f"A host with {self.per_host} workers trains nothing.", remedy="at least 1"
            )
        if self.cores is not None and self.cores < 1:
            raise UsageError(f"A host has at least one core, not {self.cores}.", where="--cores")

    def ranks_of_host(self, ranks: int) -> int:
        """Ranks of the fullest host, where there are so many in all."""
        return min(self.per_host, ranks)

    def hosts(self, ranks: int) -> int:
        """Hosts that so many ranks take."""
        return -(-ranks // self.per_host)


def ring(size_bytes: float, ranks: int, link: Link) -> Cost:
    """A sum of `size_bytes` over a ring of ranks; nothing for one rank."""
    messages = 2 * (ranks - 1)
    return Cost(messages * link.latency_s, messages / ranks * size_bytes / link.bytes_per_s)


def shared_mean(size_bytes: float, ranks: int, memory: Memory) -> Cost:
    """A mean of `size_bytes` in the memory of one host; nothing for one rank.

    Each rank reads its own and writes its share, then adds the others' shares up one by one: with
    each it reads two and writes one. That all have come they tell one another in as many rounds as
    twos have to be multiplied to reach their number.
    """
    if ranks == 1:
        return Cost()
    rounds = math.ceil(math.log2(ranks))
    moved = gone_through(ranks) * size_bytes
    return Cost(rounds * memory.meeting_s, moved / memory.bytes_per_s)


def gone_through(ranks: int) -> int:
    """How often a rank reads or writes as much as there is to average, in one mean."""
    return 2 + 3 * (ranks - 1)


def all_reduce(size_bytes: float, ranks: int, cluster: Cluster) -> Cost:
    """A sum of `size_bytes` over ranks on hosts.

    On hosts of several ranks it is made in three parts, as nccl does: inside each host every rank
    sums one part; these parts are summed over hosts, by as many rings at once as a host has ranks,
    which share its network; inside each host the sums are handed round. The first and the last part
    are together a ring over the ranks of a host.
    """
    hosts, together = cluster.hosts(ranks), cluster.ranks_of_host(ranks)
    cost = Cost()
    if together > 1:
        cost += ring(size_bytes, together, cluster.inside)
    if hosts > 1:
        cost += ring(size_bytes, hosts, cluster.between)
    return cost


def parse_rate(text: str) -> float:
    """Bytes per second of `100Gb` (bits) or `12.5GB` (bytes), with decimal prefixes.

    Raises:
        UsageError: There is no such unit, or the number is not positive.
    """
    found = _RATE.fullmatch(text.strip())
    value = float(found[1]) * _PREFIXES[found[2]] if found else 0.0
    if found is None or value <= 0:
        raise UsageError(
            f"{text!r} is no bandwidth.",
            remedy="bits or bytes per second, such as 100Gb, 2.5Gb, 12.5GB or 800MB",
        )
    return value if found[3] == "B" else value / 8
