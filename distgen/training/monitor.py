"""Watches a run on all ranks: sums on the device in every step, and a look now and then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distgen.data import ShardSet
from distgen.training.collective import Collective
from distgen.training.curves import Writer
from distgen.training.health import History, Sight
from distgen.training.job import TrainJob
from distgen.training.ladder import Action, Settings, Verdict, decide, penalised
from distgen.training.meters import Record, Sums
from distgen.training.probe import Probe, Stride, weights_finite
from distgen.training.run import RunFolder
from distgen.training.signals import (
    Finding,
    Graded,
    card_state,
    class_skew,
    clean,
    meaning,
)
from distgen.training.stopping import EarlyStopConfig, best_card, should_stop

_ACTIONS: tuple[Action, ...] = ("go on", "warn", "roll back", "give up")


class Monitor:
    """One rank's part of the watch; a named part of the checkpoint. Verdicts are rank 0's.

    Args:
        job: What is trained, and thresholds.
        settings: How much gentler than its job the run is trained.
        run: Where rank 0 tells the story.
        collective: How ranks tell one another.
        shard_set: Real pictures to compare with.
    """

    def __init__(
        self,
        job: TrainJob,
        settings: Settings,
        run: RunFolder,
        collective: Collective,
        shard_set: ShardSet,
    ) -> None:
        self.config = job.health
        self.settings = settings
        self.history = History()
        self.cards: list[Graded] = []
        self._run = run
        self._collective = collective
        self._probe = Probe(shard_set, job.training.seed, job.data.tolerance)
        self._images = job.training.images
        self._penalised = penalised(settings.objective(job.objective))
        num_classes = shard_set.spec.num_classes
        self._still: frozenset[str] = frozenset()
        self._steps: dict[str, int] = {}
        self._sums = Sums(torch.float64)
        self._stuck: dict[str, Tensor] = {}
        self._classes = np.zeros(num_classes)
        self._usual_classes = np.zeros(num_classes)
        self._updates: dict[str, float] = {}

    def add(self, phase: str, record: Record) -> None:
        """Take in one phase of one step; nothing is copied to the host."""
        if not self.config.enabled:
            return
        self._steps[phase] = self._steps.get(phase, 0) + 1
        self._sums.add(phase, record)
        skipped = 1.0 - record.values[0]
        before = self._stuck.get(phase)
        self._stuck[phase] = skipped if before is None else (before + 1.0) * skipped

    def count(self, labels_n: np.ndarray) -> None:
        """Count the classes of one step's pictures."""
        if len(self._classes):
            known = labels_n[(labels_n >= 0) & (labels_n < len(self._classes))]
            self._classes += np.bincount(known, minlength=len(self._classes))

    def pauses(self, names: Sequence[str]) -> bool:
        """Whether the phase that trains these networks has to wait for others that stand still.

        Networks that are trained against one another must not part: one that goes on alone learns
        to beat an opponent that does not answer. With health switched off nobody would see that
        one move again.
        """
        return self.config.enabled and bool(self._still) and self._still.isdisjoint(names)

    @contextmanager
    def striding(
        self,
        names: Sequence[str],
        networks: Mapping[str, nn.Module],
        taken: Tensor,
        *,
        measured: bool,
    ) -> Iterator[None]:
        """Around an optimiser's step on the named networks; how far it goes may be measured."""
        if not (measured and self._collective.world.is_main and taken):
            yield
            return
        stride = Stride({name: networks[name] for name in names})
        yield
        self._updates |= stride.ratios()

    def look(
        self,
        images_seen: int,
        served: nn.Module,
        networks: Mapping[str, nn.Module],
        device: torch.device,
        curves: Writer | None,
    ) -> Verdict:
        """See how the run is. Collective; verdicts of ranks other than 0 hold no findings."""
        means, skipped, classes = self._gather()
        verdict = Verdict("go on", ())
        if self._collective.world.is_main:
            phases = self._stuck.items()
            glance = self._probe.look(served, device)
            sight = Sight(
                images_seen=images_seen,
                losses=means,
                updates=self._updates,
                glance=glance,
                stuck_steps=max((int(steps) for _, steps in phases), default=0),
                weights_finite=weights_finite([*networks.values()]),
                class_skew=class_skew(classes, self._usual_classes),
            )
            verdict = self._judge(sight, skipped)
            if sight.class_skew <= self.config.class_skew:
                self._usual_classes += classes
            if curves is not None:
                curves.health(images_seen, sight.figures())
        still = sorted(self.history.standing_still) if self._collective.world.is_main else []
        self._still = frozenset(self._collective.gather_list(still))
        self._updates = {}
        self._reset()
        code = self._collective.agree(_ACTIONS.index(verdict.action))
        return verdict if self._collective.world.is_main else Verdict(_ACTIONS[code], ())

    def note_card(self, card: Graded) -> None:
        """Take in a quality card; a bad one puts in doubt what came since the last good one."""
        self.cards = [c for c in self.cards if c.images_seen != card.images_seen] + [card]
        streaks = [f.streak for f in card_state(self.cards, self.config) if f.grave]
        if self.config.enabled and streaks:
            before = self.cards[: -max(streaks)]
            self.history.doubt_since(before[-1].images_seen if before else 0)

    @property
    def best(self) -> Graded | None:
        """The best quality card so far, on rank 0."""
        return best_card(self.cards)

    def is_best(self, images_seen: int) -> bool:
        """Whether the card of this clock is the best one. Collective."""
        return bool(
            self._collective.agree(self.best is not None and self.best.images_seen == images_seen)
        )

    def should_end(self, config: EarlyStopConfig | None) -> bool:
        """Whether quality cards leave nothing to wait for. Collective."""
        return bool(self._collective.agree(should_stop(self.cards, config)))

    def settle(self) -> None:
        """Give rank 0 what all ranks have summed since the last look, to be kept. Collective."""
        total = self._collective.sum(self._flat())
        if not self._collective.world.is_main:
            total = torch.zeros_like(total)
        at = len(total) - len(self._classes)
        self._sums.become(total[:at])
        self._classes = total[at:].numpy().copy()

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, the sums since the last look, and how gentle the run is."""
        return {
            "settings": self.settings.facts(),
            "history": self.history.state_dict(),
            "steps": dict(self._steps),
            "sums": self._sums.state(),
            "ranks": self._collective.world.size,
            "stuck": dict(self._stuck),
            "classes": torch.from_numpy(self._classes.copy()),
            "usual_classes": torch.from_numpy(self._usual_classes.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` said; sums are rank 0's, and settings those of this start."""
        main, size = self._collective.world.is_main, self._collective.world.size
        # Every rank adds to a step's sums: more of them would have had more in as many steps.
        share = size / state.get("ranks", size)
        self.history.load_state_dict(state["history"])
        if state["settings"]["rollbacks"] != self.settings.rollbacks:
            self.history.begin_anew()
        self._still = frozenset(self.history.standing_still)
        self._steps = dict(state["steps"])
        self._sums.restore(
            [[p, n, v * share if main else torch.zeros_like(v)] for p, n, v in state["sums"]]
        )
        self._stuck = dict(state["stuck"])
        self._usual_classes = state["usual_classes"].numpy().copy()
        self._classes = state["classes"].numpy() * float(main)

    def go_on(self, cards: Sequence[Graded], images_seen: int, device: torch.device) -> None:
        """Take up the watch at a restored clock.

        Args:
            cards: The quality cards up to it; that of this clock came after the checkpoint.
            images_seen: The clock.
            device: Where training goes on.
        """
        self.cards = [card for card in cards if card.images_seen < images_seen]
        for card in cards:
            if card.images_seen == images_seen:
                self.note_card(card)
        self._sums.to(device)
        self._stuck = {phase: steps.to(device) for phase, steps in self._stuck.items()}

    def _judge(self, sight: Sight, skipped: Mapping[str, int]) -> Verdict:
        for phase, steps in skipped.items():
            if steps:
                found = Finding(f"step not finite: {phase}", steps, 0, 1, patience=1)
                self._tell("step skipped", sight, found)
        self.history.observe(sight, self.config)
        findings = self.history.findings(
            sight, self.cards, self.config, self._images, penalised=self._penalised
        )
        new = self.history.conclude(sight, findings)
        verdict = decide(
            findings, self.settings.rollbacks, self.config, one_sided=self.history.one_sided
        )
        for finding in new:
            if finding != verdict.cause:
                self._tell("warning", sight, finding)
        return verdict

    def _tell(self, event: str, sight: Sight, finding: Finding) -> None:
        self._run.event(
            event,
            sight.images_seen,
            signal=finding.signal,
            value=clean(finding.value),
            threshold=clean(finding.threshold),
            action=action_on(event, finding.signal),
            meaning=meaning(finding.signal)[0],
        )

    def _gather(self) -> tuple[dict[str, float], dict[str, int], np.ndarray]:
        """Means and skipped steps of all ranks since the last look, and how often classes came."""
        total = self._collective.sum(self._flat())
        size, at = self._collective.world.size, len(total) - len(self._classes)
        means, taken = self._sums.means(total[:at])
        skipped = {
            phase: steps - round(taken.get(phase, 0.0) / size)
            for phase, steps in self._steps.items()
        }
        return means, skipped, total[at:].numpy()

    def _flat(self) -> Tensor:
        return torch.cat([self._sums.flat(), torch.from_numpy(self._classes)])

    def _reset(self) -> None:
        self._steps = {}
        self._sums = Sums(torch.float64)
        self._classes = np.zeros_like(self._classes)


def action_on(event: str, signal: str) -> str:
    """What was done, in words."""
    if event == "step skipped":
        return "skipped"
    return "warned; others wait" if signal.startswith("network stands still") else "warned"


def newest_grades(rows: Sequence[Mapping[str, Any]]) -> list[Graded]:
    """The quality cards that a run's log holds, oldest first, the last one of each clock."""
    found = {
        row["images_seen"]: Graded(**row["grade"])
        for row in rows
        if row.get("stage") == "card" and "grade" in row
    }
    return [found[images_seen] for images_seen in sorted(found)]
