"""A process of ours on each node of a cluster, for as long as one looks at it.

Pinned to its node, without a share of its CPUs, and never waited for longer than is said: a node
that does not answer is an answer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distgen.core.errors import DistgenError
from distgen.core.peers import Exchange

START_S = 30.0
"""Time for a process to start on a busy node."""
PING_S = 5.0
PINGS = 7
_FETCH_S = 10.0
_UNEXPECTED = 2  # Ray's NodeDeathInfo.UNEXPECTED_TERMINATION
_HEAD = "node:__internal_head__"


@dataclass(frozen=True, eq=False)
class Node:
    """A living node of the cluster, as its head knows it."""

    id: str
    address: str
    host: str
    name: str
    """For people: host and address, and the beginning of the id where a host has several."""
    is_head: bool
    sessions: str
    """Folder of Ray's sessions there."""
    resources: Mapping[str, float]
    ports: Mapping[str, int]
    """What Ray's processes listen on for those of other nodes."""


@dataclass(frozen=True)
class NoAnswer:
    """A node said nothing, or could not do what it was asked."""

    why: str


class _Probe:
    """The actor on a node."""

    def run(self, work: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        return work(*arguments)


class Probes:
    """Processes of ours on some nodes, until `close`."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._actors = {node: _start(node) for node in nodes}
        self._silent: dict[Node, NoAnswer] = {}

    def ask(
        self, work: Callable[..., Any], arguments: Mapping[Node, Sequence[Any]], timeout_s: float
    ) -> dict[Node, Any]:
        """What `work` returns on each of these nodes, or a `NoAnswer`; all at the same time.

        A node that has been silent once, or has lost our process, is not asked again.

        Args:
            work: A function of a module that is light to load.
            arguments: Nodes, and what each is asked.
            timeout_s: For all of them together.
        """
        asked = {
            node: self._actors[node].run.remote(work, values)
            for node, values in arguments.items()
            if node not in self._silent
        }
        refs = list(asked.values())
        ready = set(ray.wait(refs, num_returns=len(refs), timeout=timeout_s)[0]) if refs else set()
        found: dict[Node, Any] = {}
        for node, ref in asked.items():
            try:
                # What is ready may still be on its way here.
                found[node] = ray.get(ref, timeout=_FETCH_S if ref in ready else 0)
            except ray.exceptions.RayTaskError as error:
                found[node] = NoAnswer(_why_failed(error))
            except ray.exceptions.GetTimeoutError:
                self._silent[node] = NoAnswer(f"does not answer within {timeout_s:g} s")
            except ray.exceptions.RayError as error:
                self._silent[node] = NoAnswer(_why_lost(error))
        return {node: self._silent.get(node) or found[node] for node in arguments}

    def greet(self, timeout_s: float = START_S) -> None:
        """Wait for the processes to start; nodes where they do not are asked nothing more."""
        self.ask(time.time, dict.fromkeys(self._actors, ()), timeout_s)

    def exchanges(self, node: Node) -> list[Exchange] | NoAnswer:
        """Questions for the time on a node, and its answers."""
        found = []
        for _ in range(PINGS):
            asked = time.time()
            answer = self.ask(time.time, {node: ()}, PING_S)[node]
            if isinstance(answer, NoAnswer):
                return answer
            found.append(Exchange(asked, answer, time.time()))
        return found

    def close(self) -> None:
        """End the processes."""
        for actor in self._actors.values():
            ray.kill(actor)


def living_nodes() -> list[Node]:
    """The nodes of the cluster that this process is connected to, the head first."""
    alive = [about for about in ray.nodes() if about["Alive"]]
    same_host = Counter(about["NodeManagerAddress"] for about in alive)
    found = [_node(about, same_host[about["NodeManagerAddress"]] > 1) for about in alive]
    return sorted(found, key=lambda node: (not node.is_head, node.host, node.address, node.id))


def lost_nodes() -> list[str]:
    """Nodes that the cluster has lost since its head started, with what the head knows of it."""
    return [
        f"{_host(about)} {about['NodeID'][:6]} ({about['DeathReasonMessage']})"
        for about in ray.nodes()
        if not about["Alive"] and about["DeathReason"] == _UNEXPECTED
    ]


def _host(about: Mapping[str, Any]) -> str:
    address, host = about["NodeManagerAddress"], about["NodeManagerHostname"]
    return f"{host} ({address})" if host != address else str(address)


def _node(about: Mapping[str, Any], ambiguous: bool) -> Node:
    key, name = about["NodeID"], _host(about)
    resources = dict(about["Resources"])
    return Node(
        id=key,
        address=about["NodeManagerAddress"],
        host=about["NodeManagerHostname"],
        name=f"{name} {key[:6]}" if ambiguous else name,
        is_head=_HEAD in resources,
        # <sessions>/<session>/sockets/<socket>
        sessions=str(Path(about["ObjectStoreSocketName"]).parents[2]),
        resources=resources,
        ports={
            "the node manager": about["NodeManagerPort"],
            "the object manager": about["ObjectManagerPort"],
        },
    )


def _start(node: Node) -> Any:
    place = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return ray.remote(_Probe).options(num_cpus=0, scheduling_strategy=place).remote()


def _why_lost(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "No module named 'distgen" in text:
        return "has no distgen, or an old one, in Ray's Python"
    # Ray lists the ids of everything first.
    _, _, because = text.partition("The actor died because ")
    return f"has lost our process: {(because or text)[:160]}"


def _why_failed(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, DistgenError):
        return cause.what
    lines = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {lines[-1][:300]}"
