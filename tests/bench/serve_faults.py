"""What an endpoint does when too much, or something bad, happens to it.

    python tests/bench/serve_faults.py overload --url http://127.0.0.1:8000 --pid 4711
    python tests/bench/serve_faults.py disconnect --url http://127.0.0.1:8000
    python tests/bench/serve_faults.py kill
    python tests/bench/serve_faults.py swaps
    python tests/bench/serve_faults.py soak

Without --url an endpoint of random weights is started for it, on a Ray cluster of this machine;
two versions of a model in a store of its own are promoted in turn where weights are swapped.
Prints a JSON object at the end: `checks` are what must hold, `ratio` the share of them that does,
and `ok` says whether all do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import openai
import psutil
from serve_faults_kit import Connections, Memory, answer_of, picture, request, wait_for

SLOTS = 1024
"""Pictures that may wait in one replica."""
LARGEST = 256
"""Pictures of the largest request."""
RECOVERED_S = 5.0
"""In which an endpoint is as quick as before an overload."""


async def overload(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Ten times what it can do, for a minute; then the time until it is as before."""
    connections, size = Connections(url), options.pictures
    quiet = [(await connections.ask({"n": 1}))[1] for _ in range(50)]
    began, done = time.perf_counter(), 0

    async def busy() -> None:
        nonlocal done
        while time.perf_counter() - began < 5.0:
            status, _ = await connections.ask({"n": size})
            done += status == 200

    await asyncio.gather(*(busy() for _ in range(8)))
    capacity = done / (time.perf_counter() - began)
    rate = options.factor * capacity
    answers: list[tuple[int, float]] = []

    async def one() -> None:
        answers.append(await connections.ask({"n": size}, options.deadline))

    memory = Memory(options.pid)
    with memory.watched():
        began, tasks = time.perf_counter(), []
        while (passed := time.perf_counter() - began) < options.seconds:
            due = int(rate * passed) - len(tasks)
            tasks += [asyncio.create_task(one()) for _ in range(due)]
            await asyncio.sleep(0.005)
        ended = time.perf_counter()
        usual = 3 * float(np.percentile(quiet, 99)) + 0.05
        in_row = 0
        while in_row < 5 and time.perf_counter() - ended < 60:
            status, took = await connections.ask({"n": 1})
            in_row = in_row + 1 if status == 200 and took < usual else 0
        recovered_s = time.perf_counter() - ended
        await asyncio.gather(*tasks)
    accepted = sorted(took for status, took in answers if status == 200)
    p50, p99 = np.percentile(accepted or [np.inf], [50, 99])
    statuses = Counter(status for status, _ in answers)
    return {
        "checks": {
            "accepted p99 within the deadline": bool(p99 <= options.deadline),
            "all others refused in order": set(statuses) <= {200, 429, 504},
            "as quick as before in time": recovered_s < RECOVERED_S,
            **memory.check(),
        },
        "capacity_requests_per_s": round(capacity, 1),
        "sent_per_s": round(len(answers) / options.seconds, 1),
        "statuses": dict(statuses),
        "accepted_p50_s": round(float(p50), 3),
        "accepted_p99_s": round(float(p99), 3),
        "deadline_s": options.deadline,
        "recovered_s": round(recovered_s, 2),
        "memory_mib": [round(used) for _, used in memory.rows[:: max(1, len(memory.rows) // 10)]],
    }


async def disconnect(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Clients that hang up at any moment; then every slot of every replica must be free."""
    connections, rng = Connections(url), random.Random(options.seed)
    left = options.clients

    async def hang_up() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            content = request({"n": rng.randint(1, 8)})
            cut = len(content) if rng.random() < 0.8 else rng.randrange(len(content))
            _, writer = await connections.open()
            writer.write(content[:cut])
            await asyncio.sleep(rng.random() * 0.05)
            writer.transport.abort()

    await asyncio.gather(*(hang_up() for _ in range(200)))
    began, status = time.perf_counter(), 0
    while status != 200 and time.perf_counter() - began < 60:
        status, _ = await connections.ask({"n": 1})
    free_s = time.perf_counter() - began
    await asyncio.sleep(1.0)  # batches that hold pictures of the last ones end
    # As much as may wait at all: one slot that was lost would refuse one of these.
    full = SLOTS // LARGEST if options.replicas == 1 else 1
    together = await asyncio.gather(*(connections.ask({"n": LARGEST}) for _ in range(full)))
    statuses = Counter(status for status, _ in together)
    return {
        "checks": {
            "the next request is answered": status == 200,
            "no slot is lost": set(statuses) == {200},
        },
        "clients": options.clients,
        "next_answer_s": round(free_s, 3),
        "largest_requests": dict(statuses),
    }


def kill(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """A replica dies every few seconds; stock clients that retry must not notice."""
    ended, counts = threading.Event(), Counter[str]()
    problems: list[str] = []
    expected = [picture(url, seed) for seed in range(16)]

    def ask(number: int) -> None:
        rng = random.Random(number)
        with openai.OpenAI(api_key=options.key, base_url=f"{url}/v1", max_retries=8) as client:
            while not ended.is_set():
                seed = rng.randrange(len(expected))
                try:
                    answer = client.images.generate(prompt="random", extra_body={"seed": seed})
                except openai.OpenAIError as error:
                    counts["failed"] += 1
                    problems.append(repr(error)[:200])
                else:
                    same = answer.data and answer.data[0].b64_json == expected[seed]
                    counts["right" if same else "wrong"] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    while time.monotonic() - began < options.seconds:
        time.sleep(options.every)
        counts["kills"] += options.inflict()
    ended.set()
    for thread in threads:
        thread.join()
    return {
        "checks": {
            "every answer is right": counts["wrong"] == 0 and counts["right"] > 0,
            "every request is answered in the end": counts["failed"] == 0,
            "replicas were killed": counts["kills"] > 0,
        },
        **counts,
        "problems": problems[:5],
    }


async def soak(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Requests of all kinds for a long time, with swaps between; memory must not grow."""
    connections, rng = Connections(url), random.Random(options.seed)
    answers: Counter[str] = Counter()
    until = time.monotonic() + 60 * options.minutes
    kinds: list[tuple[dict[str, Any], set[int]]] = [
        ({"n": 1}, {200}),
        ({"n": 16}, {200, 429}),
        ({"n": 4, "output_format": "webp"}, {200}),
        ({"n": 2, "output_format": "jpeg", "truncation": 0.5}, {200}),
        ({"n": 0}, {400}),
        ({"sede": 1}, {400}),
    ]

    async def ask() -> None:
        while time.monotonic() < until:
            body, usual = rng.choice(kinds)
            if rng.random() < 0.02:
                _, writer = await connections.open()
                writer.write(request(body))
                writer.transport.abort()
                continue
            status, _ = await connections.ask(body)
            answers["as it should" if status in usual else f"{body}: {status}"] += 1

    async def swap() -> None:
        while options.exchange and time.monotonic() < until:
            await asyncio.sleep(options.every)
            swapped = await asyncio.to_thread(options.exchange)
            answers["swaps" if swapped else "swaps that failed"] += 1

    memory = Memory(options.pid)
    with memory.watched():
        await asyncio.gather(swap(), *(ask() for _ in range(8)))
    slope, error = memory.slope()
    return {
        "checks": {
            "every answer is as it should": set(answers) <= {"as it should", "swaps"},
            **memory.check(),
        },
        "answers": dict(answers),
        "memory_mib": [round(used) for _, used in memory.rows[:: max(1, len(memory.rows) // 10)]],
        "slope_mib_per_minute": round(slope, 4),
        "slope_error": round(error, 4),
    }


def swaps(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Weights change many times under load; each answer must be whole, and of the digest it names.

    No client here tries again.
    """
    ended, counts = threading.Event(), Counter[str]()
    seeds = range(16)

    def digest() -> str:
        try:
            return answer_of(httpx, url, 0)[0]
        except (httpx.HTTPError, LookupError):
            counts["failed"] += 1
            return ""

    def exchange() -> bool:
        before = digest()
        options.exchange()
        return wait_for(lambda: digest() not in (before, ""))

    expected: dict[str, list[str]] = {}
    for _ in range(2):
        exchange()
        expected[digest()] = [answer_of(httpx, url, seed)[1] for seed in seeds]

    def ask(number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(trust_env=False, timeout=60.0) as client:
            while not ended.is_set():
                seed = rng.choice(seeds)
                try:
                    named, found = answer_of(client, url, seed)
                except (httpx.HTTPError, LookupError):
                    counts["failed"] += 1
                else:
                    right = named in expected and found == expected[named][seed]
                    counts["right" if right else "wrong"] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(options.count):
            counts["swaps"] += exchange()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    return {
        "checks": {
            "no request failed": counts["failed"] == 0,
            "each answer is of the digest it names": counts["wrong"] == 0 and counts["right"] > 0,
            "every swap was followed": counts["swaps"] == options.count and len(expected) == 2,
        },
        **counts,
    }


def replicas() -> list[psutil.Process]:
    """Replicas of the endpoint that this process has started."""
    below = psutil.Process().children(recursive=True)
    return [process for process in below if "ServeRepl" in process.name()]


def kill_one() -> bool:
    """Kill a replica, if more than one lives."""
    living = replicas()
    if len(living) > 1:
        random.choice(living).kill()
    return len(living) > 1


@contextlib.contextmanager
def endpoint(count: int) -> Iterator[tuple[str, Callable[[], bool]]]:
    """An endpoint of random weights on this machine, and what gives it others, two by turns."""
    from distgen.bench.serve import _write_bundle
    from distgen.core.storage import locate
    from distgen.launch.cluster import connect
    from distgen.registry import ModelStore
    from distgen.serving.deploy.endpoint import running

    with tempfile.TemporaryDirectory(prefix="distgen-bench-") as folder, connect():
        store = ModelStore(f"{folder}/models")
        for number in range(2):
            _write_bundle(locate(folder) / f"bundle{number}")
            store.promote(locate(folder) / f"bundle{number}", force=True)
        versions = itertools.cycle(store.versions("bench"))

        def exchange() -> bool:
            version = next(versions)
            return store.promote(store.bundle("bench", version), force=True) == version

        with running("bench", root=str(store.root), port=0, replicas=count) as url:
            yield url, exchange


def main() -> None:
    """Read the command line, do it, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("mode", choices=["overload", "disconnect", "kill", "swaps", "soak"])
    parser.add_argument("--url", help="of a running endpoint; by default one is started")
    parser.add_argument("--pid", type=int, nargs="*", default=[], help="whose memory to watch")
    parser.add_argument("--key", default="none", help="of the API, for the stock client")
    parser.add_argument("--replicas", type=int, help="of the endpoint; 2 for kill, else 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--factor", type=float, default=10.0, help="overload: over its capacity")
    parser.add_argument("--seconds", type=float, help="overload: 60, kill: 120")
    parser.add_argument("--deadline", type=float, default=2.0, help="overload: of each, in seconds")
    parser.add_argument("--pictures", type=int, default=64, help="overload: of each request")
    parser.add_argument("--clients", type=int, default=10_000, help="disconnect: that hang up")
    parser.add_argument("--every", type=float, help="seconds between kills (5) or swaps (20)")
    parser.add_argument("--kill", help="kill: a command that kills a replica, for --url")
    parser.add_argument("--minutes", type=float, default=30.0, help="soak: how long")
    parser.add_argument("--count", type=int, default=100, help="swaps: how many")
    parser.add_argument("--swap", help="swaps, soak: a command that swaps the weights, for --url")
    options = parser.parse_args()
    kills, command = options.mode == "kill", options.kill
    if kills and options.url and not command:
        parser.error("--url needs --kill, a command that kills one of its replicas")
    if options.mode == "swaps" and options.url and not options.swap:
        parser.error("--url needs --swap, a command that swaps its weights")
    options.replicas = options.replicas or (2 if kills else 1)
    options.seconds = options.seconds or (120.0 if kills else 60.0)
    options.every = options.every or (5.0 if kills else 20.0)
    options.inflict = (
        (lambda: not subprocess.run(command, shell=True).returncode) if command else kill_one
    )
    exchange = (
        (lambda: not subprocess.run(options.swap, shell=True).returncode) if options.swap else None
    )
    given = contextlib.nullcontext((options.url, exchange))
    with given if options.url else endpoint(options.replicas) as (url, options.exchange):
        if not options.url and not options.pid:
            options.pid = [process.pid for process in replicas()]
        run: Callable[..., Any] = globals()[options.mode]
        found = run(url.rstrip("/"), options)
        result = asyncio.run(found) if asyncio.iscoroutine(found) else found
    held = list(result["checks"].values())
    verdict = {"ratio": sum(held) / len(held), "ok": all(held), "mode": options.mode}
    print(json.dumps({**verdict, **result}))


if __name__ == "__main__":
    main()
