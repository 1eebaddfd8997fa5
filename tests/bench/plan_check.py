"""Does `distgen plan` say what ranks of this machine do? Predicted and measured, side by side.

    .venv/bin/python tests/bench/plan_check.py                 # idle machine, a quarter of an hour
    .venv/bin/python tests/bench/plan_check.py --only gan --ranks 1 2 3 --json

For each family, steps of one rank that waits for nobody are measured at two sizes, alone and as
many side by side as there are cores; so are a sum over two processes and a mean in memory that
they share. From these the model of `distgen plan` predicts a step of each number of ranks on a host
with this machine's cores; what two ranks have lies between the sizes that were measured. Then the
trainer's own ranks take that step for real, without Ray. Rounds of both alternate, since a busy
machine slows both, and the median of the rounds' ratios counts: exit code 1 where one is more than
25 % off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distgen.bench.profile import bench_profile
from distgen.bench.scale.calibrate import (
    calibrate,
    calibrate_link,
    calibrate_memory,
    cores_here,
)
from distgen.bench.scale.compute import Compute
from distgen.bench.scale.links import Cluster
from distgen.bench.scale.predict import Assumptions, predict
from distgen.bench.scale.work import work_of
from distgen.core.config import parse
from distgen.data.building import build
from distgen.training.job import TrainJob
from distgen.training.run import open_pictures

BAR = 0.25
MODELS: dict[str, dict[str, Any]] = {
    "gan": {"family": "gan", "latent_dim": 64, "width": 64, "conditional": True},
    "vae": {"family": "vae", "latent_dim": 32, "width": 96},
    "rvae": {"family": "rvae", "latent_dim": 32, "width": 192},
}
BATCH_SIZE = 96  # divides by 1, 2, 3 and 4


@dataclass(frozen=True)
class Result:
    """Medians of one number of ranks."""

    family: str
    ranks: int
    predicted_ms: float
    measured_ms: float
    ratio: float
    """Predicted over measured: the median over rounds."""
    holds: bool
    predicted_rounds: list[float]
    measured_rounds: list[float]
    bottleneck: str


def check(
    job: TrainJob, ranks: Sequence[int], *, rounds: int, seconds: float, images: int
) -> Iterator[Result]:
    """Predict and measure a job on each number of ranks."""
    cores, batch = cores_here(), job.training.batch_size
    work = work_of(job, open_pictures(job))
    largest = max(phase.bytes for phase in work.sums)
    sizes = [batch // max(2, max(ranks)), batch]
    predicted: dict[int, list[float]] = {count: [] for count in ranks}
    measured: dict[int, list[float]] = {count: [] for count in ranks}
    named: dict[int, str] = {}
    for _ in range(rounds):
        link, memory = calibrate_link(), calibrate_memory(largest)
        computes: dict[int, Compute] = {}
        for count in ranks:
            together = min(count, cores)
            if together not in computes:
                computes[together] = calibrate(job, sizes, side_by_side=together, seconds=seconds)
            cluster = Cluster(count, inside=link, between=link, cores=cores, memory=memory)
            row = predict(work, computes[together], cluster, count, assumptions=Assumptions())
            predicted[count].append(1000 * row.step_s)
            named[count] = row.bottleneck
            profile = bench_profile(job.with_workers(count), images=images)
            measured[count].append(profile["step_ms"])
    for count in ranks:
        ratio = statistics.median(
            ours / real for ours, real in zip(predicted[count], measured[count], strict=True)
        )
        yield Result(
            family=job.model.family,
            ranks=count,
            predicted_ms=statistics.median(predicted[count]),
            measured_ms=statistics.median(measured[count]),
            ratio=ratio,
            holds=1 - BAR <= ratio <= 1 + BAR,
            predicted_rounds=predicted[count],
            measured_rounds=measured[count],
            bottleneck=named[count],
        )


def job_of(family: str, shards: Path) -> TrainJob:
    """A small job on the built-in digits."""
    raw = {
        "name": f"check-{family}",
        "storage": str(shards.parent / "runs"),
        "data": {"shards": str(shards)},
        "model": MODELS[family],
        "training": {"images": 100_000, "batch_size": BATCH_SIZE},
        "scaling": {"workers": 1},
    }
    return parse(TrainJob, raw, "the check's job")


def line_of(result: Result) -> str:
    """One line for a person."""
    ranks = f"{result.ranks} rank{'s' if result.ranks > 1 else ''}"
    return (
        f"{result.family:5} {ranks:8} predicted {result.predicted_ms:8.1f} ms   "
        f"measured {result.measured_ms:8.1f} ms   ratio {result.ratio:5.2f}   "
        f"{'holds' if result.holds else f'MORE THAN {BAR:.0%} OFF'}   ({result.bottleneck})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=MODELS, help="families")
    parser.add_argument("--ranks", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measured step size")
    parser.add_argument("--images", type=int, default=9600, help="of each real measurement")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    uneven = [count for count in options.ranks if count < 1 or BATCH_SIZE % count]
    if uneven:
        parser.error(f"{uneven[0]} ranks do not divide a batch of {BATCH_SIZE}")
    results = []
    with tempfile.TemporaryDirectory(prefix="distgen-plan-check-") as folder:
        shards = Path(folder) / "digits"
        build("digits", str(shards))
        for family in options.only or MODELS:
            for result in check(
                job_of(family, shards),
                options.ranks,
                rounds=options.rounds,
                seconds=options.seconds,
                images=options.images,
            ):
                results.append(result)
                if not options.json:
                    print(line_of(result), flush=True)
    worst = max((result.ratio for result in results), key=lambda ratio: abs(ratio - 1))
    if options.json:
        rows = [asdict(result) for result in results]
        print(json.dumps({"ratio": worst, "bar": BAR, "results": rows}, indent=2))
    return 0 if all(result.holds for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
