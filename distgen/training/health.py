"""What is remembered of a run's health, and what it says: plain numbers in, findings out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from distgen.training.probe import Glance
from distgen.training.signals import (
    WINDOW,
    Finding,
    Graded,
    HealthConfig,
    card_state,
    discriminator_state,
    is_late,
    loss_divergence,
    mode_collapse,
    picture_divergence,
    posterior_collapse,
    update_state,
)

_DISTANCES = ("best_distance", "first_distance")
_CALM = 10
"""Looks without a signal after which it is told anew."""
_AFTERMATH = 20
"""Looks after one-sided pictures for which a model may show what they did to it."""


@dataclass(frozen=True)
class Sight:
    """The figures of one look."""

    images_seen: int
    losses: Mapping[str, float]
    """Means since the last look over steps that were taken, as `<phase>/<term>`."""
    updates: Mapping[str, float] = field(default_factory=dict)
    """Length of the last step over that of the weights, by network."""
    glance: Glance | None = None
    """What the served network makes."""
    stuck_steps: int = 0
    """Steps that have been skipped in a row until now."""
    weights_finite: bool = True
    class_skew: float = 0.0

    def figures(self) -> dict[str, float]:
        """What curves show of it."""
        shown = {f"update/{name}": value for name, value in self.updates.items()}
        if self.glance is not None:
            shown |= {"diversity": self.glance.diversity, "distance": self.glance.distance}
        return {**shown, "class_skew": self.class_skew}


@dataclass
class History:
    """The looks of a run so far."""

    series: dict[str, list[float]] = field(default_factory=dict)
    """The last values of each figure."""
    best_diversity: float = 0.0
    best_distance: float = math.inf
    first_distance: float = math.inf
    looks: int = 0
    well_at: int = 0
    """The clock at which nothing grave was to be seen for the last time."""
    one_sided_at: int = -1
    """The look at which classes were one-sided for the last time; -1: never."""
    told_at: dict[str, int] = field(default_factory=dict)
    """The last look at which each signal was raised."""

    def observe(self, sight: Sight, config: HealthConfig) -> None:
        """Remember one look."""
        self.looks += 1
        self._append(sight.losses.items())
        self._append((f"update/{name}", ratio) for name, ratio in sight.updates.items())
        if sight.glance is not None:
            self._append(asdict(sight.glance).items())
            if self.looks >= 3:
                diversity, distance = (self._recent(key) for key in ("diversity", "distance"))
                self.best_diversity = max(self.best_diversity, diversity)
                self.best_distance = min(self.best_distance, distance)
                self.first_distance = distance if self.looks == 3 else self.first_distance
        if sight.class_skew > config.class_skew:
            self.one_sided_at = self.looks

    @property
    def one_sided(self) -> bool:
        """Whether pictures of one class may still show in what the model makes."""
        return self.one_sided_at >= 0 and self.looks - self.one_sided_at <= _AFTERMATH

    @property
    def standing_still(self) -> set[str]:
        """Networks whose weights the last measured step did not change at all."""
        return {
            name.removeprefix("update/")
            for name, ratios in self.series.items()
            if name.startswith("update/") and ratios[-1] == 0.0
        }

    def findings(
        self,
        sight: Sight,
        cards: Sequence[Graded],
        config: HealthConfig,
        images: int,
        *,
        penalised: bool = True,
    ) -> list[Finding]:
        """Everything beyond its threshold at the look that was observed last.

        Args:
            sight: That look.
            cards: The run's quality cards, oldest first.
            config: Thresholds.
            images: Length of the run.
            penalised: Whether the objective has a gradient penalty, if it has a discriminator.
        """
        late = is_late(self.looks, sight.images_seen, images)
        found = [
            _urgent("weights not finite", 0.0, 1.0, beyond=not sight.weights_finite),
            _urgent(
                "steps not finite",
                sight.stuck_steps,
                config.stuck_steps,
                beyond=sight.stuck_steps >= config.stuck_steps,
            ),
            *(
                loss_divergence(name, losses, config)
                for name, losses in self.series.items()
                if name.endswith("/loss")
            ),
            *(
                update_state(name.removeprefix("update/"), ratios, config)
                for name, ratios in self.series.items()
                if name.startswith("update/")
            ),
            *discriminator_state(self.series, config, penalised=penalised),
            posterior_collapse(self.series.get("model/kl", ()), config, late=late),
            self._one_sided_now(sight, config),
            *card_state(cards, config),
        ]
        if sight.glance is not None:
            diversities, distances = self.series["diversity"], self.series["distance"]
            explicit = "model/kl" in self.series
            found += [
                mode_collapse(
                    diversities,
                    self.best_diversity,
                    config,
                    late=late and not explicit,
                    grave=not explicit,
                ),
                picture_divergence(
                    distances, self.best_distance, self.first_distance, config, late=late
                ),
            ]
        return [finding for finding in found if finding is not None]

    def conclude(self, sight: Sight, findings: Iterable[Finding]) -> list[Finding]:
        """Note whether the run was well, and return what has not been told lately."""
        findings = list(findings)
        if not any(finding.grave for finding in findings):
            self.well_at = sight.images_seen
        raised = [finding for finding in findings if finding.raised]
        new = [f for f in raised if self.looks - self.told_at.get(f.signal, -_CALM) > _CALM]
        self.told_at |= {finding.signal: self.looks for finding in raised}
        return new

    def begin_anew(self) -> None:
        """Forget what losses and steps were like: with other settings they are not comparable."""
        kept = ("diversity", "distance")
        self.series = {name: self.series[name] for name in kept if name in self.series}
        self.told_at = {}

    def doubt_since(self, images_seen: int) -> None:
        """A quality card says that all was well at this clock only, and not later."""
        self.well_at = min(self.well_at, images_seen)

    def state_dict(self) -> dict[str, Any]:
        """Everything, in JSON's words."""
        found = asdict(self)
        return found | {name: None for name in _DISTANCES if math.isinf(found[name])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what `state_dict` said."""
        for name, value in state.items():
            setattr(self, name, math.inf if value is None else value)

    def _append(self, figures: Iterable[tuple[str, float]]) -> None:
        for name, value in figures:
            if math.isfinite(value):
                self.series[name] = [*self.series.get(name, []), value][-WINDOW:]

    def _recent(self, name: str) -> float:
        """The median of the last three: one look's figure is noisy."""
        return statistics.median(self.series[name][-3:])

    def _one_sided_now(self, sight: Sight, config: HealthConfig) -> Finding | None:
        if self.one_sided_at != self.looks:
            return None
        return Finding(
            "classes one-sided", sight.class_skew, config.class_skew, 1, patience=1, grave=False
        )


def _urgent(signal: str, value: float, threshold: float, *, beyond: bool) -> Finding | None:
    """Something that one look is enough for."""
    return Finding(signal, value, threshold, 1, patience=1) if beyond else None
