"""The wire between a run's rank 0 and the driver: ticks and events one way, the wish to stop back.

Ray Train keeps metrics only together with a checkpoint, and looks for them every few seconds;
a small actor beside the driver carries them at once. It passes ticks on as plain data, so that its
process starts without torch.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from distgen.training.run import Tick

SEND_TIMEOUT_S = 60.0
"""A busy driver node may be slow; a telemetry actor that is this silent has gone."""


@dataclass(frozen=True)
class Member:
    """One rank, where it runs."""

    rank: int
    pid: int
    host: str
    interface: str
    """The network interface that gloo talks through; empty where gloo chooses."""
    node: str = ""
    """Ray's id of the node."""
    started: float = 0.0
    """When the process began (`core.birth`): numbers of processes come again."""


@dataclass
class News:
    """What has come in since the last look."""

    ticks: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the run's events, as rank 0 wrote them."""
    faults: list[str] = field(default_factory=list)
    """Why worker groups were lost, one line each."""
    attempts: int = 0
    """Worker groups that have started so far."""
    members: list[Member] = field(default_factory=list)
    """The ranks of the newest worker group."""


class Mailbox:
    """The actor's state. All its methods run in one event loop."""

    def __init__(self) -> None:
        self._news = News()
        self._arrived = asyncio.Event()
        self._stop = False

    async def enroll(self, member: Member) -> None:
        """A rank has started; rank 0 opens a new attempt."""
        if member.rank == 0:
            self._news.attempts += 1
        others = [m for m in self._news.members if m.rank != member.rank]
        self._news.members = sorted([*others, member], key=lambda m: m.rank)
        self._arrived.set()

    async def push(self, tick: dict[str, Any]) -> bool:
        """Deliver a tick; the answer is whether the run should stop."""
        self._news.ticks.append(tick)
        self._arrived.set()
        return self._stop

    async def tell(self, event: dict[str, Any]) -> None:
        """Rank 0 has written an event."""
        self._news.events.append(event)
        self._arrived.set()

    async def fault(self, text: str) -> None:
        """A worker group was lost."""
        self._news.faults.append(text)
        self._arrived.set()

    async def request_stop(self) -> None:
        """Let the next push be answered by a stop."""
        self._stop = True

    async def take(self, wait_s: float) -> News:
        """What is new, waiting at most `wait_s` seconds for something to be."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), wait_s)
        self._arrived.clear()
        taken = self._news
        self._news = News(attempts=taken.attempts, members=list(taken.members))
        return taken


class Telemetry:
    """A handle on the actor, which workers, controller and driver use alike."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def start(cls) -> Telemetry:
        """Start the actor on this node, so that it lives and dies with the driver."""
        here = ray.get_runtime_context().get_node_id()
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        actor = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=strategy).remote()
        return cls(actor)

    def enroll(self, member: Member) -> None:
        """Say that a rank has started."""
        ray.get(self._actor.enroll.remote(member), timeout=SEND_TIMEOUT_S)

    def push(self, tick: Tick) -> bool:
        """Deliver a tick and learn whether to stop."""
        return bool(ray.get(self._actor.push.remote(asdict(tick)), timeout=SEND_TIMEOUT_S))

    def tell(self, event: dict[str, Any]) -> None:
        """Pass on an event of the run, without waiting."""
        self._actor.tell.remote(event)

    def fault(self, text: str) -> None:
        """Report a lost worker group, without waiting."""
        self._actor.fault.remote(text)

    def request_stop(self) -> None:
        """Ask the run to write its checkpoint and end."""
        ray.get(self._actor.request_stop.remote(), timeout=SEND_TIMEOUT_S)

    def take(self, wait_s: float) -> News:
        """What is new since the last call."""
        news: News = ray.get(self._actor.take.remote(wait_s), timeout=wait_s + SEND_TIMEOUT_S)
        return news

    def close(self) -> None:
        """End the actor. Workers that still run take this as the driver's end, and stop."""
        ray.kill(self._actor)
