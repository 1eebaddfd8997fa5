"""Optuna's sampler as Tune's source of points, where the extra is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgen.core.errors import UsageError
from distgen.tune.job import Dimension, TuneJob
from distgen.tune.space import Point

Configure = Callable[[int, Point], dict[str, Any]]
"""From a trial's number and point to what its actor is told."""


def build_searcher(job: TuneJob, known: list[Point], configure: Configure) -> Any:
    """A searcher that proposes the `known` points of an earlier start first, then new ones.

    Raises:
        UsageError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "search.algorithm: optuna is not installed.",
            remedy="pip install 'distgen[optuna]', or search.algorithm=random",
        ) from error
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    class NumberedSearch(OptunaSearch):  # type: ignore[misc]
        """Numbers the points in the order in which they are asked for."""

        _count = 0

        def suggest(self, trial_id: str) -> dict[str, Any]:
            """The configuration of the next trial."""
            point = super().suggest(trial_id)
            config = configure(self._count, point)
            self._count += 1
            return {"trial": config}

    return NumberedSearch(
        space={key: _distribution(dimension) for key, dimension in job.search.space.items()},
        metric=job.metric,
        mode=job.mode,
        points_to_evaluate=known or None,
        seed=job.search.seed,
    )


def _distribution(dimension: Dimension) -> Any:
    from optuna import distributions as d

    if dimension.choice is not None:
        return d.CategoricalDistribution(dimension.choice)
    if dimension.loguniform is not None:
        return d.FloatDistribution(*dimension.loguniform, log=True)
    if dimension.uniform is not None:
        return d.FloatDistribution(*dimension.uniform)
    return d.IntDistribution(*dimension.extremes)
