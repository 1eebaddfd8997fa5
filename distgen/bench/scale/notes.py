"""What a plan's figures stand on, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from distgen.bench.scale.compute import Compute
from distgen.bench.scale.links import Cluster, Link, Memory
from distgen.bench.scale.predict import Assumptions, Work, in_memory


def notes_on(
    work: Work,
    compute: Compute,
    cluster: Cluster,
    workers: Sequence[int],
    assumed: Assumptions,
) -> tuple[str, ...]:
    """One sentence for each thing that these numbers of workers of a job stand on."""
    notes = [
        f"A worker's step: {1e3 * compute.step_s:,.2f} ms and {1e3 * compute.image_s:,.3f} ms for "
        f"each of its images ({compute.source}).",
    ]
    several = [ranks for ranks in workers if ranks > 1]
    if several:
        notes += _exchange(work, compute, cluster, several, assumed)
        notes.append(
            f"A worker's own time varies by {assumed.jitter:.0%}, and all wait for the slowest."
        )
    if cluster.cores is not None:
        notes.append(f"A host has {cluster.cores} cores for its {cluster.per_host} workers.")
    if work.cached:
        notes.append("Hosts keep the pictures (data.cache): the store is read in the first epoch.")
    notes.append("Quality cards, starts and faults take time beside that.")
    return tuple(notes)


def _exchange(
    work: Work, compute: Compute, cluster: Cluster, workers: Sequence[int], assumed: Assumptions
) -> Iterator[str]:
    """How workers average gradients."""
    # A phase may lie in memory and another, of larger networks, not.
    ways = {
        ranks: {in_memory(phase, cluster, ranks) is not None for phase in work.sums}
        for ranks in workers
    }
    shared = [ranks for ranks in workers if True in ways[ranks]]
    rings = [ranks for ranks in workers if False in ways[ranks]]
    if shared and cluster.memory:
        yield (
            f"{_numbers(shared)} workers average gradients in their host's memory: "
            f"{_memory_text(cluster.memory)}."
        )
    if not rings:
        return
    yield ("Sums are rings; " if not shared else f"{_numbers(rings)} workers sum in rings; ") + (
        "each bucket's sum goes on beside backward once its gradients are there, and what "
        "is left at the end of backward is waited for."
        if compute.overlaps
        else "none goes on beside backward, for CPUs compute and send with the same cores."
    )
    if cluster.ranks_of_host(max(rings)) > 1:
        yield f"Inside a host: {_link_text(cluster.inside)}."
    if cluster.hosts(max(rings)) > 1:
        yield (
            f"Between hosts: {_link_text(cluster.between)}, which is "
            f"{assumed.network_share:.0%} of the network's."
        )


def _numbers(workers: Sequence[int]) -> str:
    *some, last = map(str, sorted(set(workers)))
    return f"{', '.join(some)} and {last}" if some else last


def _link_text(link: Link) -> str:
    return f"{1e6 * link.latency_s:,.0f} µs a message, {link.bytes_per_s / 1e9:,.2f} GB/s"


def _memory_text(memory: Memory) -> str:
    return f"{1e6 * memory.meeting_s:,.0f} µs to meet, {memory.bytes_per_s / 1e9:,.2f} GB/s"
