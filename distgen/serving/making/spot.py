"""One served model: what its requests go to now, and how that follows an alias."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from distgen.core.errors import DistgenError
from distgen.serving.making.loading import outline, reason, require_shape, shape_of, told
from distgen.serving.making.memory import Copy, Memory
from distgen.serving.making.references import Edition, Reference, Standing, names_of

RETRY_AFTER_S = 60.0
"""When a version is tried again that failed for a reason that may pass, as a full memory."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """Something that happened to a served model, for logs and metrics."""

    kind: Literal["swap", "trial", "problem"]
    """Another champion, another trial or its end, or a version that was refused."""
    model: str
    digest: str
    """Of the champion, as it is from now on."""
    detail: str


Tell = Callable[[Change], None]


@dataclass(frozen=True)
class Now:
    """What requests go to; replaced as a whole."""

    standing: Standing
    champion: Copy
    trial: Copy | None
    names: dict[str, Edition | None]

    def copies(self) -> dict[Edition, Copy]:
        """Each edition's copy."""
        found = {self.standing.champion: self.champion}
        if self.standing.trial is not None and self.trial is not None:
            found[self.standing.trial] = self.trial
        return found


class Spot:
    """A model's place on the shelf.

    Args:
        reference: What is served there.
        memory: What holds its copies.
        first: The copy to begin with, where there is one.

    Raises:
        DistgenError: Nothing that the reference stands for, or stood for, can be served.
    """

    def __init__(self, reference: Reference, memory: Memory, first: Copy | None = None) -> None:
        self.reference = reference
        self.problem = ""
        """Why what the reference stands for is not what is served; empty where it is."""
        self._memory = memory
        self._refused: dict[Edition, _Refusal] = {}
        self.now = self._first() if first is None else now_of(reference, first, None, 0.0)

    @property
    def name(self) -> str:
        """What clients call it."""
        return self.reference.name

    def choose(self, name: str | None) -> Copy:
        """The copy that answers a request.

        Args:
            name: One of `now.names`; None for whichever is served here.
        """
        now = self.now
        exact = None if name is None else now.names[name]
        if exact is not None:
            return now.copies()[exact]
        if now.trial is not None and random.random() < now.standing.share:
            return now.trial
        return now.champion

    async def look(self, tell: Tell) -> None:
        """Follow the reference, if it has moved; what cannot be served leaves all as it is."""
        problems: list[str] = []
        try:
            wanted = await asyncio.to_thread(self.reference.standing)
        except Exception as error:
            problem = f"{self.name} is not found: {told(error)}"
            if problem != self.problem:
                _log.error("%s is not found: %s", self.name, reason(error))
            self._note([problem], tell)
            return
        before = self.now
        champion = await self._copy_of(wanted.champion, problems) or before.champion
        trial = None
        if wanted.trial is not None:
            trial = await self._copy_of(wanted.trial, problems)
        if champion is trial:
            trial = None
        self.now = now_of(self.reference, champion, trial, wanted.share)
        stay = [*self.now.copies().values()]
        for copy in before.copies().values():
            if copy not in stay:
                await self._memory.exchange(copy, champion if copy is before.champion else None)
        self._tell_changes(before, tell)
        self._note(problems, tell)

    def _first(self) -> Now:
        """The first of what the reference stands for, and stood for, that can be served.

        A replica that comes late thus serves what the others stayed with.
        """
        standing = self.reference.standing()
        failures: list[DistgenError] = []
        for edition in dict.fromkeys([standing.champion, *self.reference.earlier()]):
            try:
                found = outline(edition, self.name)
                require_shape(found.info, self.reference.shape, edition.url)
                copy = self._memory.begin(found)
            except DistgenError as error:
                failures.append(error)
                cause = f"version {edition.version}: {told(error)}"
                self._refused[edition] = _Refusal(cause, _fingerprint(edition), math.inf)
                continue
            if failures:
                self.problem = self._refused[standing.champion].cause
                _log.error("%s stays with what it was: %s", self.name, self.problem)
            return now_of(self.reference, copy, None, 0.0)
        raise failures[0]

    async def _copy_of(self, edition: Edition, problems: list[str]) -> Copy | None:
        """The copy of an edition, loaded if it is new; None where it cannot be served."""
        known = self.now.copies()
        if edition in known:
            return known[edition]
        fingerprint = await asyncio.to_thread(_fingerprint, edition)
        refusal = self._refused.get(edition)
        if refusal is not None and refusal.holds(fingerprint):
            problems.append(refusal.cause)
            return None
        shape = self.reference.shape or shape_of(self.now.champion.outline.info)
        try:
            found = await asyncio.to_thread(outline, edition, self.name)
            require_shape(found.info, shape, edition.url)
            copy = await self._memory.bring(found)
        except Exception as error:
            cause = f"version {edition.version}: {told(error)}"
            lasting = isinstance(error, DistgenError)
            if not lasting:  # what clients are told leaves out the most of it
                _log.error("%s, version %s: %s", self.name, edition.version, reason(error))
            again_at = math.inf if lasting else time.monotonic() + RETRY_AFTER_S
            self._refused[edition] = _Refusal(cause, fingerprint, again_at)
            problems.append(cause)
            return None
        self._refused.pop(edition, None)
        return copy

    def _tell_changes(self, before: Now, tell: Tell) -> None:
        new, old = self.now, before
        if new.champion is not old.champion:
            _log.warning("%s: %s took over from %s", self.name, _told(new), _told(old))
            tell(self._change("swap", f"{_told(new)} took over from {_told(old)}"))
        if new.trial is not old.trial or new.standing.share != old.standing.share:
            of = new.standing.trial
            detail = "it has ended" if of is None else f"{of.version} on {new.standing.share:g}"
            _log.warning("%s: trial of version %s", self.name, detail)
            tell(self._change("trial", detail))

    def _note(self, problems: list[str], tell: Tell) -> None:
        problem = "; ".join(problems)
        if problem and problem != self.problem:
            _log.error("%s stays with what it was: %s", self.name, problem)
            tell(self._change("problem", problem))
        self.problem = problem

    def _change(self, kind: Literal["swap", "trial", "problem"], detail: str) -> Change:
        return Change(kind, self.name, self.now.champion.outline.info.digest, detail)


@dataclass(frozen=True)
class _Refusal:
    """What was wrong with an edition, and until when nobody need look again."""

    cause: str
    fingerprint: tuple[str, ...]
    again_at: float
    """By the monotonic clock."""

    def holds(self, fingerprint: tuple[str, ...]) -> bool:
        return self.fingerprint == fingerprint and time.monotonic() < self.again_at


def now_of(reference: Reference, champion: Copy, trial: Copy | None, share: float) -> Now:
    """The pointer to these copies."""
    standing = Standing(
        champion.outline.edition,
        None if trial is None else trial.outline.edition,
        0.0 if trial is None else share,
    )
    return Now(standing, champion, trial, names_of(reference, standing))


def _told(now: Now) -> str:
    info = now.champion.outline.info
    return f"version {info.version} ({info.digest[:12]})"


def _fingerprint(edition: Edition) -> tuple[str, ...]:
    """Changes when a file of the bundle does."""
    try:
        return tuple(f"{file.name} {file.version()}" for file in edition.location.list())
    except OSError:
        return ()
