"""Damaged samples that the ranks of a run meet: noted once each, and counted together."""

from __future__ import annotations

from distgen.data.streaming.bad import BadSample, Tolerance
from distgen.training.collective import Collective
from distgen.training.run import RunFolder


class BadSamples:
    """What all ranks have met since the run began, by place in the set.

    Args:
        run: Where rank 0 notes them, in `bad_samples.jsonl`.
        collective: How ranks tell one another.
        tolerance: How many there may be.
        num_samples: Samples of the set.
    """

    def __init__(
        self, run: RunFolder, collective: Collective, tolerance: Tolerance, num_samples: int
    ) -> None:
        self._run = run
        self._collective = collective
        self._tolerance = tolerance
        self._num_samples = num_samples
        self._known: dict[int, BadSample] = {}
        self._unsaid: list[BadSample] = []
        if tolerance.substitutes and collective.world.is_main:
            self._known = {bad.index: bad for bad in run.bad_samples()}

    def add(self, bad: BadSample) -> None:
        """Remember what this rank met; called in any thread."""
        self._unsaid.append(bad)

    def share(self) -> None:
        """Tell the other ranks. Collective.

        Raises:
            DataError: Together they are more than the budget lets pass.
        """
        if not self._tolerance.substitutes:
            return
        said = [self._unsaid.pop() for _ in range(len(self._unsaid))]
        told = self._collective.gather_list([*self._known.values(), *said])
        met = {bad.index: bad for bad in reversed(told)}
        if self._collective.world.is_main:
            for index in sorted(met.keys() - self._known.keys()):
                self._run.log_bad_sample(met[index])
        self._known = met
        self._tolerance.require_within(met.values(), self._num_samples)
