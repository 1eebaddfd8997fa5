"""Which processes make up the cluster that `distgen cluster up` has started on this machine."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from distgen.core.birth import find
from distgen.core.errors import UsageError
from distgen.core.storage import locate


@dataclass(frozen=True)
class NodeProcess:
    """A `ray start --block`, told apart from a later process with the same id by its start."""

    pid: int
    started: float
    """When it began (`core.birth`)."""
    log: str

    def process(self) -> psutil.Process | None:
        """The process, or None where it has ended."""
        return find(self.pid, self.started)


@dataclass
class ClusterState:
    """What `up` has started, as its state file keeps it."""

    address: str
    """host:port of the GCS, for `--address` of `train` and `tune`."""
    dashboard_url: str
    """For `--address` of `submit` and `jobs`, and for a browser on this machine."""
    temp_dir: str
    cpus_per_node: int
    gpus_per_node: int
    complete: bool = False
    """Whether all nodes have come up."""
    nodes: list[NodeProcess] = field(default_factory=list)
    """The head first."""

    def alive(self) -> list[NodeProcess]:
        """The nodes whose process still runs."""
        return [node for node in self.nodes if node.process() is not None]


def state_file() -> Path:
    """Where the state is kept: `$XDG_STATE_HOME/distgen/cluster.json`."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "distgen" / "cluster.json"


def failed_log() -> Path:
    """Where the log of a node that did not come up is kept; its folder goes with its cluster."""
    return state_file().with_name("failed-node.log")


def read_state() -> ClusterState | None:
    """The cluster that `up` started and `down` has not ended; None where there is none.

    Raises:
        UsageError: The state file is damaged.
    """
    path = state_file()
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text())
        nodes = [NodeProcess(**node) for node in raw.pop("nodes")]
        return ClusterState(**raw, nodes=nodes)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            "The cluster's state file cannot be read.",
            where=str(path),
            cause=str(error),
            remedy=f"look for `ray start` processes, end them, and remove {path}",
        ) from error


def write_state(state: ClusterState) -> None:
    """Keep the state, in one piece."""
    locate(state_file()).write_json(asdict(state))
