"""Errors that a user can act on: what happened, where, the likely cause, and the next command."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: the same command goes on where this one stopped


class DistgenError(Exception):
    """Anything that distgen reports to its user without a traceback.

    Args:
        what: One sentence that says what went wrong and names the thing.
        where: File, URL, field or address.
        cause: The likely reason.
        remedy: What to type or change next.
    """

    exit_code = EXIT_FAILED

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        cause: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("where", self.where), ("cause", self.cause), ("try", self.remedy)):
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Ray carries exceptions between processes; the default would lose the keyword arguments.
        return (_rebuild, (type(self), self.what, self.where, self.cause, self.remedy))


class UsageError(DistgenError):
    """The request itself is wrong: a bad job file, flag, name or path."""

    exit_code = EXIT_USAGE


class DataError(DistgenError):
    """Stored bytes are missing or are not what their checksums say."""

    exit_code = EXIT_USAGE


class TrainingError(DistgenError):
    """A run ended before its length for a reason that the same command will not cure."""


class PreemptedError(DistgenError):
    """A run was asked to stop, has written its checkpoint, and can be resumed."""

    exit_code = EXIT_PREEMPTED


def _rebuild(
    kind: type[DistgenError],
    what: str,
    where: str | None,
    cause: str | None,
    remedy: str | None,
) -> DistgenError:
    return kind(what, where=where, cause=cause, remedy=remedy)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A remedy for a misspelt name: the nearest choice where there is one, and all choices."""
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    listed = ", ".join(choices[:24]) + (", ..." if len(choices) > 24 else "")
    return f"did you mean {near[0]!r}? choices: {listed}" if near else f"choices: {listed}"
