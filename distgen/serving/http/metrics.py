"""What this process has counted, and `GET /metrics`, which tells it to Prometheus as text.

Behind a proxy with several replicas `/metrics` is that of whichever replica answers. There Ray's
agent on each node tells all of them (`distgen.serving.deploy.reporting`).
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby
from typing import Any

from fastapi import FastAPI, Response

from distgen.launch.monitoring import (
    BATCH_IMAGES,
    IMAGES,
    REQUESTS,
    STAGE_SECONDS,
    SWAPS,
    WAITING_IMAGES,
    WAITING_IMAGES_LIMIT,
    Labels,
    Metric,
    Sample,
)
from distgen.serving.making.account import METERS, Account
from distgen.serving.making.batching import QUEUES, Batcher

_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BY_NAME = {each.name: each for each in (REQUESTS, IMAGES, STAGE_SECONDS, BATCH_IMAGES, SWAPS)}
_FAMILIES = {
    part.name: (histogram.name, histogram.kind)
    for histogram in (STAGE_SECONDS, BATCH_IMAGES)
    for part in histogram.series()
}
_Values = tuple[str, ...]


class Tally:
    """A meter that keeps totals in memory.

    Args:
        replica: Tells processes that serve one model apart.
    """

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self._totals: dict[_Values, float] = {}
        self._histograms: dict[_Values, tuple[list[int], list[float]]] = {}

    def request(
        self, route: str, status: int, reason: str, seconds: float, account: Account
    ) -> None:
        """A request has been answered."""
        model = account.model
        self._add(REQUESTS, (model, self.replica, route, str(status), reason), 1)
        if not account.pictures or status != 200:
            return
        self._add(IMAGES, (model, self.replica), account.pictures)
        for stage, value in (
            ("queue", account.queue_s),
            ("forward", account.forward_s),
            ("encode", account.encode_s),
            ("total", seconds),
        ):
            self._observe(STAGE_SECONDS, (model, self.replica, stage), value)

    def batch(self, model: str, size: int) -> None:
        """The network has made a batch of so many pictures."""
        self._observe(BATCH_IMAGES, (model, self.replica), size)

    def swap(self, model: str, outcome: str) -> None:
        """Other weights were to take over."""
        self._add(SWAPS, (model, self.replica, outcome), 1)

    def everything(self) -> list[Sample]:
        """All totals, and what waits now; may be called from another thread."""
        return [*self.queues(), *self.samples()]

    def samples(self) -> Iterator[Sample]:
        """All totals; may be called from another thread."""
        for (name, *values), total in list(self._totals.items()):
            yield _BY_NAME[name], _labelled(_BY_NAME[name], values), total
        for (name, *values), (counts, sums) in list(self._histograms.items()):
            metric = _BY_NAME[name]
            bucket, sum_of, count = metric.series()
            labels = _labelled(metric, values)
            up_to = list(accumulate(counts))
            for bound, reached in zip((*metric.bounds, "+Inf"), up_to, strict=True):
                le = bound if isinstance(bound, str) else f"{bound:g}"
                yield bucket, {**labels, "le": le}, reached
            yield sum_of, labels, sums[0]
            yield count, labels, up_to[-1]

    def queues(self) -> Iterator[Sample]:
        """How much waits now, by model and kind."""
        waiting: dict[tuple[str, str], tuple[int, int]] = {}
        for queue in _queues():
            now, limit = waiting.get((queue.name, queue.kind), (0, 0))
            waiting[queue.name, queue.kind] = (now + queue.waiting, limit + queue.max_waiting)
        for (name, kind), (now, limit) in waiting.items():
            labels = {"model": name, "replica": self.replica, "queue": kind}
            yield WAITING_IMAGES, labels, now
            yield WAITING_IMAGES_LIMIT, labels, limit

    def _add(self, metric: Metric, values: _Values, by: float) -> None:
        key = (metric.name, *values)
        self._totals[key] = self._totals.get(key, 0.0) + by

    def _observe(self, metric: Metric, values: _Values, value: float) -> None:
        key = (metric.name, *values)
        found = self._histograms.get(key)
        if found is None:
            found = self._histograms[key] = ([0] * (len(metric.bounds) + 1), [0.0])
        found[0][bisect_left(metric.bounds, value)] += 1
        found[1][0] += value


TALLY = Tally(str(os.getpid()))
"""This process's."""
METERS.append(TALLY)


def _queues() -> list[Batcher[Any, Any, Any]]:
    """All of this process; models that come meanwhile change the set under the hands."""
    while True:
        try:
            return list(QUEUES)
        except RuntimeError:
            continue


def add_routes(app: FastAPI) -> None:
    """Add `GET /metrics`."""

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """What this process has counted, in Prometheus' text format."""
        return Response(exposition(TALLY.everything()), headers={"content-type": _MEDIA_TYPE})


def exposition(samples: Iterable[Sample]) -> str:
    """Samples in Prometheus' text format 0.0.4, without Ray's prefix."""
    lines = []
    by_family = sorted(samples, key=lambda sample: _family(sample[0]))
    for _, group in groupby(by_family, key=lambda sample: _family(sample[0])):
        for number, (metric, labels, value) in enumerate(group):
            if number == 0:
                name, kind = _family(metric)
                lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {kind}"]
            text = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
            lines.append(f"{metric.name}{{{text}}} {value:.17g}")
    return "\n".join(lines) + "\n"


def _family(metric: Metric) -> tuple[str, str]:
    """Name and type under which a series is told."""
    return _FAMILIES.get(metric.name, (metric.name, metric.kind))


def _labelled(metric: Metric, values: Iterable[str]) -> Labels:
    return dict(zip(metric.labels, values, strict=True))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
