"""`/metrics` is Prometheus text of what happened, and the same totals reach Ray's agent."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading

import httpx
import pytest

from distgen.launch import monitoring
from distgen.launch.monitoring import Metric, tell_often
from distgen.serving.http.app import create_app
from distgen.serving.http.metrics import TALLY, Tally, exposition
from distgen.serving.making.account import METERS, Account, tell_swap
from distgen.serving.making.shelf import Shelf

PATH = "/v1/images/generations"


@pytest.fixture
def tally():
    """A meter of its own, so that what other tests do is not in it."""
    mine = Tally("r1")
    METERS.append(mine)
    yield mine
    METERS.remove(mine)


def values(tally: Tally) -> dict[tuple[str, ...], float]:
    return {(metric.name, *labels.values()): value for metric, labels, value in tally.samples()}


def test_requests_pictures_batches_stages_and_swaps_are_counted(make_engine, tally):
    async def run() -> str:
        engine = make_engine(max_waiting=40)
        app = create_app(Shelf([engine]))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for body in ({"n": 3}, {"n": 5}, {"n": 41}, {"n": 0}):
                await client.post(PATH, json=body)
            await client.get("/v1/models/nobody")
            for path in ("/a", "/b"):
                await client.get(path)
            tell_swap("fashion", "done")
            text = (await client.get("/metrics")).text
        await engine.close()
        return text

    text = asyncio.run(run())
    counted = values(tally)
    requests = {key[3:]: value for key, value in counted.items() if "requests" in key[0]}
    assert requests == {
        (PATH, "200", ""): 2,
        (PATH, "429", "queue_full"): 1,
        (PATH, "400", "invalid_value"): 1,
        ("/v1/models/{name}", "404", "model_not_found"): 1,
        ("other", "404", "not_found"): 2,
        ("/metrics", "200", ""): 1,
    }
    assert counted["distgen_serve_images_total", "fashion", "r1"] == 8
    assert counted["distgen_serve_batch_images_sum", "fashion", "r1"] == 8
    assert counted["distgen_serve_swaps_total", "fashion", "r1", "done"] == 1
    for stage in ("queue", "forward", "encode", "total"):
        assert counted["distgen_serve_stage_seconds_count", "fashion", "r1", stage] == 2
    of_seeds = f'{{model="fashion",replica="{TALLY.replica}",queue="seeds"}}'
    assert f"distgen_serve_waiting_images{of_seeds} 0\n" in text
    assert f"distgen_serve_waiting_images_limit{of_seeds} " in text
    assert "nobody" not in text, "what clients make up is no label"


def test_buckets_are_cumulative_and_a_value_on_a_bound_is_below_it(tally):
    for size in (1, 2, 2, 64, 100):
        tally.batch("m", size)
    le = {key[3]: value for key, value in values(tally).items() if "bucket" in key[0]}
    assert le == {"1": 1, "2": 3, "4": 3, "8": 3, "16": 3, "32": 3, "64": 4, "+Inf": 5}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_the_text_is_what_prometheus_reads(tally):
    tally.request("/a", 200, "", 0.3, Account(model='a"b\\c\nd', pictures=2, queue_s=0.1))
    tally.request("/a", 429, "queue_full", 0.3, Account())
    tally.batch("m", 3)
    tally.swap("m", "done")
    text = exposition(tally.samples())
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr + text
    assert text.count("# TYPE distgen_serve_stage_seconds histogram") == 1


class Agent:
    """Where Ray's metrics would go: counters add up, gauges are the last that was said."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, ...], float] = {}
        self.gauges: dict[tuple[str, ...], float] = {}
        self.rounds = threading.Semaphore(0)

    def set(self, metric: Metric, value: float, labels: monitoring.Labels) -> None:
        assert tuple(labels) == metric.labels
        self.gauges[metric.name, *labels.values()] = value
        if metric.name.endswith("_count"):
            self.rounds.release()

    def add(self, metric: Metric, labels: monitoring.Labels, by: float = 1) -> None:
        assert (metric.kind, tuple(labels)) == ("counter", metric.labels)
        key = (metric.name, *labels.values())
        self.counters[key] = self.counters.get(key, 0) + by


def test_what_fails_once_is_told_the_next_time(tally, monkeypatch, caplog):
    monkeypatch.setattr(monitoring, "REFRESH_S", 0.01)
    agent, ended, failures = Agent(), threading.Event(), [RuntimeError("changed size")]
    tally.batch("m", 3)

    def samples() -> list[monitoring.Sample]:
        if failures:
            raise failures.pop()
        return tally.everything()

    thread = tell_often(samples, sink=agent, ended=ended)
    assert agent.rounds.acquire(timeout=10)
    ended.set()
    thread.join(10)
    assert "metrics could not be told" in caplog.text


def test_what_is_told_to_rays_agent_again_and_again_adds_up_once(tally, monkeypatch):
    monkeypatch.setattr(monitoring, "REFRESH_S", 0.01)
    agent, ended = Agent(), threading.Event()
    tally.batch("m", 3)
    tally.swap("m", "done")
    thread = tell_often(tally.samples, sink=agent, ended=ended)
    for _ in range(3):
        assert agent.rounds.acquire(timeout=10)
    tally.swap("m", "done")
    for _ in range(3):
        assert agent.rounds.acquire(timeout=10)
    ended.set()
    thread.join(10)
    assert agent.counters == {("distgen_serve_swaps_total", "m", "r1", "done"): 2}
    assert agent.gauges["distgen_serve_batch_images_bucket", "m", "r1", "4"] == 1
    assert agent.gauges["distgen_serve_batch_images_sum", "m", "r1"] == 3
