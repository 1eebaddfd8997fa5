"""What is looked at on one machine of a cluster, by a process of ours there.

Workers of Ray load this module before the first step of a run, and it is therefore light.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from distgen.core import machine, reach
from distgen.core.errors import DistgenError
from distgen.core.finding import Finding, warning
from distgen.core.reach import Mark, Witness
from distgen.core.software import same_software, versions
from distgen.core.storage import locate
from distgen.launch import auth

MEMORY = "memory"


@dataclass(frozen=True)
class Look:
    """Where to look on one machine."""

    name: str
    """A file name that no other machine uses."""
    address: str
    """The machine's in the cluster."""
    sessions: str
    """Folder of Ray's sessions."""
    storage: str
    """Path or URL of the folder that holds runs."""
    alone: bool = True
    """Whether no node of the cluster is on another host."""
    mark: Mark | None = None
    """What the machine that asks has left in the storage; None where it could not."""
    shards: str = ""
    """The shard set, as its user knows it; empty where none is asked for."""
    witnesses: tuple[Witness, ...] = ()
    """How some of its files look to the machine that asks."""
    checkpoint_bytes: int = 0
    shared_memory_bytes: int = 2**20
    """What the ranks of the machine take of `/dev/shm`."""
    memory_bytes: int = 0
    """What a rank without a GPU keeps in memory at the least."""


def essentials(look: Look) -> list[Finding]:
    """What a rank here could not do without; well below a second where all is well."""
    found = [
        _guarded("interface", lambda: machine.interface(look.address, alone=look.alone)),
        *_disks(look),
        _guarded("/dev/shm", lambda: machine.shared_memory(look.shared_memory_bytes)),  # noqa: S108
    ]
    if look.memory_bytes:
        found.append(_guarded(MEMORY, lambda: _memory(look.memory_bytes)))
    if look.mark is not None:
        found.append(reach.storage(look.mark, look.name))
    if look.shards:
        found.append(reach.shards(look.shards, look.witnesses))
    return found


def everything(look: Look, asker: Mapping[str, str], offered: float | None) -> list[Finding]:
    """All that `distgen doctor` asks of one machine; some seconds, as torch is loaded.

    Args:
        look: Where to look.
        asker: Versions on the machine that asks.
        offered: GPUs of this node as Ray knows it; None where Ray is not asked.
    """
    from distgen.launch.watchdog import stacks_of
    from distgen.training.devices import devices

    return [
        _guarded("software", lambda: same_software(versions(), asker)),
        _guarded("devices", lambda: devices(offered)),
        *essentials(look),
        _guarded("names", lambda: machine.names(look.address)),
        _guarded("open files", machine.open_files),
        _guarded("stack dumps", lambda: machine.stack_dumps(stacks_of(os.getpid()))),
        _guarded("token", auth.look_at_token),
    ]


def _memory(need: int) -> Finding:
    """A warning where there is too little: ranks may have room on other machines."""
    found = machine.memory(need)
    return found if found.verdict == "ok" else warning(MEMORY, found.text, found.remedy)


def _disks(look: Look) -> list[Finding]:
    sessions = Path(look.sessions)
    found = [_guarded("disk", lambda: machine.session_disk(sessions))]
    local = locate(look.storage).local
    if local is not None:
        size = look.checkpoint_bytes
        found.append(_guarded("storage disk", lambda: machine.storage_disk(local, size)))
    return found


def _guarded(subject: str, work: Callable[[], Finding]) -> Finding:
    """What `work` finds; where it cannot look, that, and the others are looked at all the same."""
    try:
        return work()
    except (OSError, DistgenError) as error:
        return warning(subject, f"cannot be looked at: {error}", "distgen --debug doctor")
