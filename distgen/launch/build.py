"""`distgen data build` on a cluster: its processes convert, and this one writes the set."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distgen.core.errors import DistgenError, UsageError
from distgen.core.storage import locate
from distgen.data.building import Built, build
from distgen.data.building.processes import outcome
from distgen.data.building.sources import BUILTIN
from distgen.data.building.sources.idx import find_idx
from distgen.launch.cluster import connect
from distgen.launch.places import fitting_workers, wait_for_place

T = TypeVar("T")

_NODE_TIMEOUT_S = 60.0


def build_on_cluster(
    source: str,
    dst: str | os.PathLike[str],
    *,
    address: str | None,
    workers: int | None = None,
    **options: Any,
) -> Built:
    """Build a shard set with the processes of a cluster; the bytes are those of `data.build`.

    Args:
        source: What `data.sources.open_source` opens. A path has to be there on every node.
        dst: Path or URL of the folder to write, seen from this machine.
        address: As `launch.cluster.connect` takes it.
        workers: Processes; by default, and at most, as many as fit into the cluster.
        options: Those of `data.build`.

    Raises:
        UsageError: A node does not see the source, no process fits, or what `data.build` refuses.
        DataError: As from `data.build`.
        DistgenError: The cluster is too busy for a single process, or ended.
    """
    with connect(address) as connection:
        room = connection.room()
        workers = fitting_workers(room, workers, 0)
        wait_for_place(room, 0)
        path = None if source in BUILTIN else locate(source).local
        # IDX files are small enough for their pixels to travel; other paths are read over there.
        if path is not None and not (path.is_dir() and find_idx(path)):
            check_seen(path)
        with Tasks() as tasks:
            return build(source, dst, workers=workers, executor=tasks, **options)


class Tasks(Executor):
    """Work as Ray tasks, each with a CPU. Nodes that die are made up for by others."""

    def __init__(self) -> None:
        self._do = ray.remote(outcome).options(num_cpus=1)
        self._running: dict[Future[Any], Any] = {}

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have `fn` called on some node; what it is given and returns can be pickled."""
        answer: Future[T] = Future()
        reference = self._do.remote(partial(fn, *args, **kwargs))
        self._running[answer] = reference
        reference.future().add_done_callback(partial(self._pass_on, answer))
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Take back what is not done."""
        for answer, reference in list(self._running.items()):
            answer.cancel()
            ray.cancel(reference)

    def _pass_on(self, answer: Future[T], ended: Future[tuple[bool, Any]]) -> None:
        self._running.pop(answer, None)
        if not answer.set_running_or_notify_cancel():
            return
        try:
            done, value = ended.result()
        except Exception as error:
            done, value = False, _lost(error)
        if done:
            answer.set_result(value)
        else:
            answer.set_exception(value)


def check_seen(path: Path) -> None:
    """Refuse a source that a node of the cluster does not see, or sees otherwise than this one.

    Raises:
        UsageError: It names the first such node.
    """
    here, _ = _sight(path)
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        look = ray.remote(_sight).options(num_cpus=0, scheduling_strategy=strategy)
        try:
            there, host = ray.get(look.remote(path), timeout=_NODE_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            raise _lost(error) from error
        if there != here:
            raise UsageError(
                "A node of the cluster does not see the source.",
                where=f"{path} on {host} ({node['NodeManagerAddress']})",
                cause="it is not there" if there is None else "what lies there is another",
                remedy="a path that all nodes mount, or a URL such as s3://bucket/path",
            )


def _sight(path: Path) -> tuple[tuple[bool, int] | None, str]:
    """What a node sees: whether it is a folder, and its entries or bytes; and the node's name."""
    host = socket.gethostname()
    try:
        folder = path.is_dir()
        return (folder, sum(1 for _ in path.iterdir()) if folder else path.stat().st_size), host
    except OSError:
        return None, host


def _lost(error: Exception) -> DistgenError:
    return DistgenError(
        "The cluster could not do a part of the work.",
        cause=" ".join(str(error).split())[:400],
        remedy="the same command goes on from the last finished shard",
    )
