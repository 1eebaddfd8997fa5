"""One run, three hosts, and one random fault after the other, for hours.

    python tests/bench/soak.py --faults 200
    python tests/bench/soak.py --hours 2 --seed 1 --folder /var/tmp/soak

Needs root and iproute2. Prints a line for each fault as `make test-faults` does, and at the end a
JSON object: `ratio` is the share of faults after which every promise held. At the end the run is
told to stop, and its weights are compared with those of two ranks of torch alone that train as
many images and to which nothing happens.

The folder keeps what has been done: the same command again goes on where a soak was cut. What a
soak draws depends on its seed and on the number of the fault alone.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from distgen.core.errors import PreemptedError
from distgen.data.building import build
from distgen.training import checkpoint
from distgen.training.job import TrainJob
from distgen.training.run import open_pictures, prepare
from tests.faults import HEADER, Survived, broken_promises, first_after, lost_after, when
from tests.hosts import inflict, network
from tests.hosts.cluster import Cluster, Run, three_hosts, wait_until
from tests.hosts.network import Host
from tests.ray import plain_ranks
from tests.ray.conftest import tiny_job

NAME = "soak"
LENGTH = 1_000_000_000
"""Images that no soak will reach: it is stopped when it has had its faults."""
PACE = {
    "name": NAME,
    "training__images": LENGTH,
    "training__batch_size": 64,
    "training__checkpoint_every": 6_400,
    "training__log_every": 3_200,
    "training__evaluate_every": LENGTH,
    "scaling__cpus_per_worker": 1,
    "scaling__max_failures": 100_000,
    "scaling__patience_s": 12.0,
}


@dataclass(frozen=True)
class Kind:
    """A fault, and what has to follow it."""

    inflict: Callable[[Run], object]
    signs: tuple[str, ...] = ("workers lost",)
    """Events that tell of it."""
    restarts: bool = True
    """Whether the ranks are new ones afterwards."""
    again: bool = False
    """Whether the command has to be given again."""


KINDS = {
    "SIGKILL of a worker": Kind(inflict.kill_worker),
    "SIGKILL of rank 0": Kind(lambda run: inflict.kill_worker(run, 0)),
    "SIGKILL of a whole node": Kind(inflict.kill_node),
    "SIGKILL of Ray Train's controller": Kind(inflict.kill_controller),
    "SIGKILL of the driver": Kind(inflict.kill_driver, (), again=True),
    "SIGTERM of the driver": Kind(inflict.end_driver, ("stopped",), again=True),
    "link cut for 5 s": Kind(lambda run: inflict.cut_for(run, 5), (), restarts=False),
    "link cut for good": Kind(inflict.cut_for_good),
    "hung rank (SIGSTOP), patience 12 s": Kind(inflict.hang, ("stalled",)),
    "slow rank, 5 s": Kind(lambda run: inflict.slow_down(run, 5), (), restarts=False),
    "node announced to leave (drain)": Kind(inflict.drain, ("node leaving",)),
}


class Soak:
    """A run on hosts, and what has happened to it so far.

    Args:
        cluster: The hosts.
        folder: Keeps what has been done.
        seed: Of what is drawn.
        pause_s: Longest time that the run is left alone between two faults.
    """

    def __init__(self, cluster: Cluster, folder: Path, seed: int, pause_s: float) -> None:
        self.cluster = cluster
        self.seed = seed
        self.pause_s = pause_s
        self.journal = folder / "faults.jsonl"
        self.copy = folder / "run"
        store = cluster.store
        job = tiny_job("vae", store.url("digits"), store.url("runs"), **PACE)
        self.run = Run(cluster, job)
        if self.copy.is_dir():
            store.upload(self.copy, f"runs/{NAME}")

    def done(self) -> list[dict[str, Any]]:
        """The faults so far."""
        if not self.journal.is_file():
            return []
        return [json.loads(line) for line in self.journal.read_text().splitlines()]

    def one_more(self) -> None:
        """Draw a fault, wait a while, and see the run go on."""
        number = len(self.done())
        draw = random.Random(f"{self.seed} {number}")
        name = draw.choice(sorted(KINDS))
        time.sleep(draw.uniform(0.0, self.pause_s))
        self._progresses()
        kind, at = KINDS[name], time.time()
        before = len(self.run.events("workers running"))
        hit = kind.inflict(self.run)
        again = time.time()
        if kind.again:
            self.run.start()
        if kind.restarts:
            self.run.waits(lambda: len(self.run.events("workers running")) > before, name)
        self._progresses()
        row = self._row(name, kind, at, again)
        print(row.line(), flush=True)
        self._mend(hit if isinstance(hit, Host) else None)
        self._keep()
        with self.journal.open("a") as file:
            file.write(json.dumps({"number": number, **asdict(row)}) + "\n")

    def _row(self, name: str, kind: Kind, at: float, again: float) -> Survived:
        events = self.run.events()
        told = first_after(events, at, *kind.signs) if kind.signs else None
        start = again if kind.again else when(told) if told else None
        running = first_after(events, start, "workers running") if start else None
        return Survived(
            name,
            True,  # looked at once, at the end
            lost_after(events, at),
            detected_s=when(told) - at if told else None,
            back_s=when(running) - start if running and start else None,
        )

    def _progresses(self) -> None:
        """Wait until the run takes steps that it has not taken before."""
        since = self.run.images_seen()
        self.run.waits(lambda: self.run.images_seen() > since, "more images")

    def _mend(self, hit: Host | None) -> None:
        """Bring back the host that was hit."""
        if hit is not None:
            hit.kill()
            hit.join()
            wait_until(lambda: hit not in self.cluster.alive(), "the loss of a host")
        self.cluster.start()

    def _keep(self) -> None:
        """Copy the run, its newest whole checkpoint alone, for a soak that goes on."""
        folder = self.run.folder
        newest = checkpoint.complete(folder.checkpoints)[-1].name
        aside = self.copy.with_name("run.new")
        shutil.rmtree(aside, ignore_errors=True)
        for path in folder.location.find():
            if path.startswith(("checkpoints/", "stacks/", "ray/")) and newest not in path:
                continue
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            (aside / path).write_bytes((folder.location / path).read_bytes())
        shutil.rmtree(self.copy, ignore_errors=True)
        aside.rename(self.copy)

    def stop(self) -> int:
        """End the run with a checkpoint; the clock there."""
        code = inflict.end_driver(self.run)
        if code != PreemptedError.exit_code:
            raise RuntimeError(f"the run ended with code {code}:\n{self.run.said()}")
        self._keep()
        return int(checkpoint.complete(self.run.folder.checkpoints)[-1].name)


def undisturbed(shards: Path, folder: Path, images: int) -> dict[str, bytes]:
    """Weights, averages and moments of a run of this length that nothing happened to."""
    shutil.rmtree(folder, ignore_errors=True)
    # Points of the curves are looks at the run's health, which are part of it.
    job = tiny_job("vae", str(shards), str(folder), **{**PACE, "training__images": images})
    prepare(job, open_pictures(job).fingerprint)
    plain_ranks.run([job], patience_s=24 * 3600.0)
    return weights_at(job, images)


def weights_at(job: TrainJob, images: int) -> dict[str, bytes]:
    """All tensors of networks, optimisers and averages of one checkpoint."""
    place = job.location / "checkpoints" / f"{images:012d}"
    kept = ("network-", "optimizer-", "ema")
    files = [f for f in place.list() if f.name.startswith(kept) and f.name.endswith("safetensors")]
    return {file.name: file.read_bytes() for file in files}


def summary(rows: list[dict[str, Any]], images: int, equal: bool, seconds: float) -> dict[str, Any]:
    """What is printed at the end."""
    survived = [Survived(**{k: v for k, v in row.items() if k != "number"}) for row in rows]
    broken = [
        f"{number}, {row.fault}: {promise}"
        for number, row in enumerate(survived)
        for promise in broken_promises(row, int(PACE["training__checkpoint_every"]))
    ]
    kept = len(survived) - len({line.partition(",")[0] for line in broken})
    return {
        "ratio": kept / max(1, len(survived)),
        "faults": len(survived),
        "images": images,
        "weights_equal": equal,
        "slowest_detection_s": max((row.detected_s or 0.0 for row in survived), default=0.0),
        "slowest_return_s": max((row.back_s or 0.0 for row in survived), default=0.0),
        "most_images_lost": max((row.images_lost for row in survived), default=0),
        "by_fault": dict(Counter(row.fault for row in survived)),
        "broken_promises": broken,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Read the command line, and soak."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, help="how many; by default until the hours are over")
    parser.add_argument("--hours", type=float, default=2.0, help="where --faults is not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=10.0, help="longest time between two, in s")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/distgen-soak"))
    parser.add_argument("--fresh", action="store_true", help="forget what has been done")
    options = parser.parse_args()
    if why := network.missing():
        sys.exit(f"no hosts can be made here: {why}")
    folder: Path = options.folder / str(options.seed)
    if options.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    shards = folder / "digits"
    if not (shards / "train" / "manifest.json").is_file():
        build("digits", str(shards))
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    print(HEADER, flush=True)
    with three_hosts() as cluster:
        cluster.store.upload(shards, "digits")
        soak = Soak(cluster, folder, options.seed, options.pause)

        def is_over() -> bool:
            if options.faults is not None:
                return len(soak.done()) >= options.faults
            return time.monotonic() - began > 3600 * options.hours

        soak.run.start()
        soak.run.waits(lambda: soak.run.events("workers running"), "the first step")
        while not is_over():
            soak.one_more()
        images = soak.stop()
        found = weights_at(soak.run.job, images)
        wait_until(lambda: not cluster.leftovers(), "the end of all actors")
    equal = found == undisturbed(shards, folder / "undisturbed", images)
    print(json.dumps(summary(soak.done(), images, equal, time.monotonic() - began), indent=2))
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
