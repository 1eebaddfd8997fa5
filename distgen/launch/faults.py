"""What becomes of errors on their way from a rank through Ray to the person who waits.

This module is loaded by Ray Train's controller too, and is therefore light.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import ray
import ray.train

from distgen.core.errors import DistgenError, TrainingError
from distgen.launch.leaving import NodeLeavingError
from distgen.launch.setbacks import Setbacks
from distgen.launch.telemetry import Telemetry

T = TypeVar("T")

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class WorkersLostError(TrainingError):
    """The workers of a run failed as often as they may."""


class ControllerLostError(WorkersLostError):
    """The process of Ray's that looks after the workers has died, and they with it."""


def persevere(launch: Callable[[], T], setbacks: Setbacks) -> T:
    """What a launch returns, launched again where Ray does not do that by itself.

    Args:
        launch: Goes on from the last checkpoint.
        setbacks: How often its controller may die.

    Raises:
        ControllerLostError: It died more often.
    """
    while True:
        try:
            return launch()
        except NodeLeavingError:
            continue  # the checkpoint is written, and there is room elsewhere, or there will be
        except ControllerLostError:
            if not setbacks.one_more():
                raise


class GiveUp(ray.train.UserCallback):  # type: ignore[misc]
    """Ends a run on errors that another attempt would repeat, and after too many failures in a row.

    Ray Train would restart the workers for any exception, and counts failures over the whole run.
    An error raised from here is the controller's own, which it does not retry, and it reaches the
    driver whole.

    Args:
        telemetry: Told of each fault.
        setbacks: How often workers may fail.
        where: The run's folder, for the message.
    """

    def __init__(self, telemetry: Telemetry, setbacks: Setbacks, where: str) -> None:
        self._telemetry = telemetry
        self._setbacks = setbacks
        self._where = where

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Raise what ends the run; report what no other attempt would repeat."""
        for error in worker_exceptions.values():
            known = unwrap(error)
            if known is not None:
                raise known
        cause = root_cause(worker_exceptions)
        self._telemetry.fault(cause)
        if not self._setbacks.one_more():
            count = self._setbacks.count
            often = "once" if count == 1 else f"{count} times without a new checkpoint between them"
            raise WorkersLostError(
                f"The workers failed {often}; the run is given up.",
                where=self._where,
                cause=cause,
                remedy="the same command resumes; Ray's logs are in its session's folder, "
                "and its dashboard shows them",
            )


def unwrap(error: BaseException | None) -> DistgenError | None:
    """The error of ours inside Ray's wrappers, where there is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, DistgenError):
            return error
        seen.add(id(error))
        wrapped = [getattr(error, name, None) for name in ("_base_exc", "controller_failure")]
        causes = [*wrapped, getattr(error, "cause", None), error.__cause__]
        error = next((cause for cause in causes if isinstance(cause, BaseException)), None)
    return None


def root_cause(failures: dict[int, Exception]) -> str:
    """One line on why a worker group failed: the rank that died rather than those it took along."""
    lines = {rank: last_line(error) for rank, error in sorted(failures.items())}
    # When one rank dies its peers fail in the collective that they were waiting in.
    own = {rank: line for rank, line in lines.items() if not _is_collateral(line)}
    if lines and not own:  # whoever went took its own report along
        rank = next(iter(lines))
        return f"rank {rank}: the process or the node of another rank is gone (killed, or cut off)"
    rank, line = next(iter(own.items()), (0, "unknown"))
    return f"rank {rank}: {line}"


def last_line(error: Exception) -> str:
    """What an error says in the end: what comes through Ray begins with pages of tracebacks."""
    wrapped = getattr(error, "health_check_failure", None) or error
    if isinstance(wrapped, ray.exceptions.RayActorError):
        return "its process died (killed, out of memory, or its node was lost)"
    plain = _COLOURS.sub("", str(wrapped))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(wrapped).__name__


def _is_collateral(line: str) -> bool:
    words = ("connection closed by peer", "connection reset", "gloo", "nccl", "broken pipe")
    return any(word in line.lower() for word in words)
