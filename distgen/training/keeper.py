"""A run's checkpoints: which are written and kept, and where a start or a roll-back goes on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import NoReturn

import torch
from torch import nn

from distgen.core.errors import DataError, TrainingError
from distgen.core.part import Part
from distgen.core.storage import Location
from distgen.training import checkpoint
from distgen.training.checkpoint import Manifest
from distgen.training.collective import Collective
from distgen.training.ema import EMA
from distgen.training.ladder import (
    Journal,
    RollBack,
    Settings,
    Verdict,
    choose_target,
    gave_up,
    still_counts,
)
from distgen.training.monitor import Monitor
from distgen.training.probe import weights_finite
from distgen.training.run import RunFolder
from distgen.training.signals import clean, meaning
from distgen.training.waits import Waits
from distgen.training.writer import CheckpointWriter

_CHANGED_BY_STEPS = (nn.Module, torch.optim.Optimizer, EMA)
"""Nothing else changes these parts, and it does so after forward and backward."""
_HEALTHY_KEPT = 2
"""A second roll-back may have to go further back than the first."""


class Keeper:
    """Keeps the newest checkpoints, the best one, and those that a roll-back may need.

    Args:
        run: The run's folder.
        collective: How ranks tell one another.
        keep: How many of the newest stay.
    """

    def __init__(self, run: RunFolder, collective: Collective, keep: int) -> None:
        self.journal = Journal(run.location)
        self.rollbacks = self.journal.read()
        self._run = run
        self._collective = collective
        self._writer = CheckpointWriter(run.checkpoints, keep, self._written, self._needed)
        self._healthy = True
        self._best: int | None = None
        self._waits = Waits()
        self.saved_at = 0
        """The clock of the newest checkpoint that counts."""

    def open(self) -> Keeper:
        """Begin to listen for what storage makes the run wait for; until `close`."""
        self._waits.open()
        return self

    def save(
        self,
        images_seen: int,
        parts: Mapping[str, Part],
        networks: Mapping[str, nn.Module],
        monitor: Monitor,
        *,
        healthy: bool,
    ) -> None:
        """Begin to write a checkpoint while the run goes on, and to delete those that nobody needs.

        Collective. Nothing is written where this clock has one, or where weights are not finite.

        Args:
            images_seen: The clock.
            parts: What must survive.
            networks: The weights among them.
            monitor: Knows the best quality card, whose checkpoint stays.
            healthy: Whether a run that goes wrong may return here.
        """
        if self.saved_at == images_seen:
            return
        if not self._collective.agree(weights_finite(networks.values())):
            cause = "weights are not finite numbers"
            self._event("checkpoint refused", images_seen, cause=cause)
            return
        monitor.settle()
        if self._collective.world.is_main:
            self._writer.wait()
            self._healthy = healthy
            self._best = monitor.best.images_seen if monitor.best else None
            rollbacks = len(self.rollbacks)
            lent = [name for name, part in parts.items() if isinstance(part, _CHANGED_BY_STEPS)]
            self._writer.save(images_seen, parts, healthy=healthy, rollbacks=rollbacks, lent=lent)
        self.saved_at = images_seen

    def release(self) -> None:
        """Wait until weights, averages and moments may change again: before an optimiser steps."""
        self._writer.copied()

    def tell(self, images_seen: int) -> None:
        """Tell of a checkpoint that is complete by now, and of storage that was waited for."""
        self._writer.tell()
        wait = self._waits.take()
        if wait is not None:
            facts = {"waited_s": round(wait.seconds, 1), "tries": wait.tries, "cause": wait.cause}
            self._event("storage waited for", images_seen, **facts)

    def settle(self) -> None:
        """Wait on every rank until the last checkpoint is written."""
        self._writer.wait()
        self._collective.barrier()

    def close(self) -> None:
        """Let the last checkpoint be written, but say nothing of it."""
        self._writer.close()
        self._waits.close()

    def _written(self, images_seen: int) -> None:
        self._event("checkpoint", images_seen, **({} if self._healthy else {"healthy": False}))

    def _needed(self) -> set[int]:
        """Clocks of checkpoints that stay however old they are."""
        sound = [manifest.images_seen for manifest in self._counting() if manifest.healthy]
        best = [] if self._best is None else [self._best]
        return {*sound[-_HEALTHY_KEPT:], *best}

    def restore(self, parts: Mapping[str, Part]) -> int:
        """Restore the newest checkpoint that counts; the clock, 0 at the beginning. Collective.

        Raises:
            DataError: Ranks find different checkpoints, or none of them can be used.
        """

        def damaged(place: Location, error: DataError) -> None:
            self._event("damaged checkpoint skipped", 0, checkpoint=place.name, cause=error.what)

        def counts(manifest: Manifest) -> bool:
            return still_counts(manifest, self.rollbacks)

        folder, world = self._run.checkpoints, self._collective.world
        seen = checkpoint.load_latest(folder, parts, damaged, counts)
        agreed = self._collective.agree(seen)
        if agreed != seen:
            raise DataError(
                f"Rank {world.rank} would go on from {seen:,} images, rank 0 from {agreed:,}.",
                where=str(folder),
                cause="nodes see different folders under this name, or one could not read a file",
                remedy="set storage to a place that all nodes share: a network disk or s3://",
            )
        if world.is_main:
            names = [place.name for place in checkpoint.complete(folder)]
            self._writer.passed_over = tuple(name for name in names if int(name) > seen)
            lost = max(0, self._run.rewind(seen) - seen)
            facts = {"ranks": world.size, **({"lost_images": lost} if lost else {})}
            self._event("resumed" if seen else "started", seen, **facts)
        # Nobody prunes or writes before all have read.
        self._collective.barrier()
        self.saved_at = seen
        return seen

    def restore_part(self, images_seen: int, name: str, part: Part) -> bool:
        """Restore one part of the checkpoint of this clock; False where it cannot be had."""
        with suppress(DataError):
            checkpoint.load_part(self._run.checkpoints, images_seen, name, part)
            return True
        return False

    def follow(self, verdict: Verdict, images_seen: int, monitor: Monitor) -> None:
        """Do what a verdict asks for beyond words. Collective.

        Raises:
            TrainingError: The run is given up.
        """
        if verdict.action == "roll back":
            self._roll_back(images_seen, monitor, verdict)
        elif verdict.action == "give up":
            self._give_up(images_seen, verdict)

    def _roll_back(self, images_seen: int, monitor: Monitor, verdict: Verdict) -> None:
        """Make the checkpoints since the run was last seen healthy count as never written."""
        cause = verdict.cause
        self._writer.wait()
        if self._collective.world.is_main and cause is not None:
            to = choose_target(self._counting(), self.rollbacks, monitor.history.well_at)
            found = {"value": clean(cause.value), "threshold": clean(cause.threshold)}
            row = RollBack(at=images_seen, to=to, signal=cause.signal, **found)
            gentler = Settings.after(len(self.rollbacks) + 1, monitor.config)
            # The event first: without the journal's line the roll-back comes again, and is told
            # again; the other way round it might never be told.
            self._event(
                "rolled back",
                images_seen,
                signal=cause.signal,
                **found,
                action=f"back to {to:,} images",
                to=to,
                meaning=meaning(cause.signal)[0],
                **gentler.facts(),
            )
            self.journal.add(row)
            for place in reversed(checkpoint.complete(self._run.checkpoints)):
                if int(place.name) > to:
                    checkpoint.delete(place)
        self._collective.barrier()

    def _give_up(self, images_seen: int, verdict: Verdict) -> NoReturn:
        """End a run that no roll-back has cured, with the same error on every rank."""
        told: list[TrainingError] = []
        if self._collective.world.is_main and verdict.cause is not None:
            cause = verdict.cause
            self._event(
                "given up",
                images_seen,
                signal=cause.signal,
                value=clean(cause.value),
                threshold=clean(cause.threshold),
                action="stopped the run",
                meaning=meaning(cause.signal)[0],
            )
            told = [gave_up(str(self._run.location), images_seen, cause, self.rollbacks)]
        raise self._collective.gather_list(told)[0]

    def _counting(self) -> list[Manifest]:
        found = checkpoint.manifests(self._run.checkpoints)
        return [manifest for manifest in found if still_counts(manifest, self.rollbacks)]

    def _event(self, kind: str, images_seen: int, **facts: object) -> None:
        if self._collective.world.is_main:
            self._run.event(kind, images_seen, **facts)
