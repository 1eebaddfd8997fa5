"""Whether runs get well after injected faults, and whether healthy runs are left alone.

    python tests/bench/health.py faults --job jobs/fashion-gan.yaml --out /tmp/health
    python tests/bench/health.py clean --job jobs/fashion-gan.yaml --out /tmp/health

`faults` trains the job once undisturbed and once for each fault from the same seed, and compares
the final headline distances, those of the first extractor: the bar is that four of five are within
1.3 of the undisturbed one. How many are on every extractor is told beside it.
`clean` trains ten healthy runs of all families and objectives and counts alarms: the bar is none.
Faults are injected here, from outside; distgen has no switch for them. Runs that are in
`<out>/results.jsonl` are not repeated, and a run that was broken off starts anew.

What goes wrong, and for how long:

    nan-batch      one batch is not a number, each time that it comes
    gamma-0        the gradient penalties are off: from the job file on, or for a while (--passing)
    rate-x20       the learning rate is 20 times the job's: likewise
    frozen         the discriminator's steps have no effect, for --fault-images images of training
    one-class      all pictures are of one class, for --fault-images images of the data

Where a fault passes, it begins at a third of the run. `gamma-0`, `rate-x20` and `frozen` last for
so many images of training: after a roll-back they go on, and end as they would have.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from distgen.cli.kinds import read_job
from distgen.core.config import parse
from distgen.core.errors import TrainingError
from distgen.data import Batch, open_shard_set, read_samples
from distgen.training import gate, optim, trainer
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder, open_pictures, prepare
from distgen.training.trainer import Trainer

ALARMS = ("step skipped", "warning", "rolled back", "given up")
FAULTS = ("nan-batch", "gamma-0", "rate-x20", "frozen", "one-class")
BAR = 1.3


@dataclass(frozen=True)
class Row:
    """One finished run."""

    name: str
    images: int
    seed: int
    fault: str
    watched: bool
    distances: dict[str, float]
    """Final Fréchet distances by extractor; empty where the run was given up."""
    coverage: float
    alarms: list[str]
    rolled_back: int
    seconds: float
    ended: str
    """`finished`, or the error that ended the run."""


@dataclass
class Fault:
    """What goes wrong, and when; `trained` counts images that were trained on, roll-backs too."""

    kind: str
    start: int
    length: int
    batch_size: int
    one_class: np.ndarray
    label: int
    trained: int = 0

    @property
    def active(self) -> bool:
        """Whether a fault of training is on."""
        return self.start <= self.trained < self.start + self.length

    def on_data(self, images_seen: int) -> bool:
        """Whether a fault of the data is on at this clock."""
        return self.start <= images_seen < self.start + self.length

    def batch(self, batch: Batch, images_seen: int) -> Batch:
        """The batch, or another one in its place."""
        if self.kind != "one-class" or not self.on_data(images_seen):
            return batch
        random = np.random.default_rng(images_seen)
        chosen = random.integers(len(self.one_class), size=len(batch.images_nhwc))
        labels = np.full_like(batch.labels_n, self.label)
        return replace(batch, images_nhwc=self.one_class[chosen], labels_n=labels)


@contextmanager
def injected(fault: Fault) -> Iterator[None]:
    """Runs inside have the fault."""
    step, to_device, step_if = Trainer.step, trainer.to_device, gate.step_if
    rate_at = optim.learning_rate_at

    def faulty_step(self: Trainer, batch: Batch) -> None:
        objective: Any = self.objective
        config = objective.config
        if fault.kind == "gamma-0" and fault.active:
            objective.config = config.model_copy(update={"r1": 0.0, "r2": 0.0})
        if fault.kind == "frozen" and fault.active:
            frozen[:] = [self.optimizers["discriminator"]]
        step(self, fault.batch(batch, self.images_seen))
        frozen.clear()
        if objective.config is not config:
            objective.config = config
        fault.trained += fault.batch_size

    def faulty_to_device(*args: Any, **options: Any) -> Any:
        inputs = to_device(*args, **options)
        if (
            fault.kind != "nan-batch"
            or not 0 <= inputs.images_seen - fault.start < fault.batch_size
        ):
            return inputs
        return replace(inputs, images_nchw=inputs.images_nchw * float("nan"))

    def faulty_rate(*args: Any) -> float:
        return rate_at(*args) * (20.0 if fault.kind == "rate-x20" and fault.active else 1.0)

    frozen: list[torch.optim.Optimizer] = []

    def faulty_step_if(optimizer: torch.optim.Optimizer, allowed: torch.Tensor) -> None:
        if not any(optimizer is one for one in frozen):
            step_if(optimizer, allowed)

    with ExitStack() as stack:
        for target, name, value in (
            (Trainer, "step", faulty_step),
            (trainer, "to_device", faulty_to_device),
            (optim, "learning_rate_at", faulty_rate),
            (gate, "step_if", faulty_step_if),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield


def twentyfold(rate: Any) -> Any:
    """A learning rate of 20 times as much, be it a number or a schedule."""
    if isinstance(rate, dict):
        return {**rate, "start": 20.0 * rate["start"], "end": 20.0 * rate["end"]}
    return 20.0 * rate


def with_fault(job: TrainJob, kind: str, *, passing: bool) -> TrainJob:
    """The job with a wrong setting in it, for faults that are one and do not pass."""
    raw = job.model_dump(mode="json")
    if not passing and kind == "gamma-0":
        raw["objective"] |= {"r1": 0.0, "r2": 0.0}
    if not passing and kind == "rate-x20":
        raw["training"]["learning_rate"] = twentyfold(raw["training"]["learning_rate"])
    return parse(TrainJob, raw, kind)


def fault_for(job: TrainJob, kind: str, length: int, *, passing: bool) -> Fault:
    """A fault's schedule, in whole batches."""
    batch = job.training.batch_size
    start = job.training.images // 3 // batch * batch
    lasting = not passing and kind in ("gamma-0", "rate-x20")
    pictures, label = np.empty(0), 0
    if kind == "one-class":
        shard_set = open_shard_set(job.data.shards, "train")
        count = min(shard_set.num_samples, 4_000)
        images, labels = read_samples(shard_set, np.arange(count))
        label = int(np.bincount(labels[labels >= 0]).argmax())
        pictures = images[labels == label]
    return Fault(kind, start, 0 if lasting else length, batch, pictures, label)


def run_once(job: TrainJob, fault: Fault | None, kind: str) -> Row:
    """Train a job from nothing, here, and sum up how it went."""
    prepare(job, open_pictures(job).fingerprint, fresh=True)
    folder = RunFolder(job.location)
    began, ended = time.monotonic(), "finished"
    try:
        if fault is None:
            trainer.train(job)
        else:
            with injected(fault):
                trainer.train(job)
    except TrainingError as error:
        ended = error.what
    told = [event for event in folder.events() if event["event"] in ALARMS]
    scores = folder.card.read_json()["extractors"] if ended == "finished" else []
    return Row(
        name=job.name,
        images=job.training.images,
        seed=job.training.seed,
        fault=kind,
        watched=job.health.enabled,
        distances={s["name"]: s["generated"]["frechet_distance"] for s in scores},
        coverage=scores[0]["generated"]["coverage"] if scores else 0.0,
        alarms=[
            f"{event['images_seen']:,} {event['event']}: {event['signal']} "
            f"({event['value']:.3g}, threshold {event['threshold']:.3g})"
            for event in told
        ],
        rolled_back=sum(event["event"] == "rolled back" for event in told),
        seconds=round(time.monotonic() - began, 1),
        ended=ended,
    )


Case = tuple[TrainJob, Fault | None, str]


def fault_cases(job: TrainJob, options: argparse.Namespace) -> Iterator[Case]:
    """The undisturbed run, and one for each fault; unwatched ones beside them if asked for."""
    length = options.fault_images
    for watched in (True, False) if options.unwatched else (True,):
        health = job.health.model_copy(update={"enabled": watched})
        tail = "" if watched else "-unwatched"
        base = job.model_copy(update={"health": health})
        if watched:
            yield base.model_copy(update={"name": "undisturbed"}), None, "none"
        for kind in options.faults:
            named = base.model_copy(update={"name": f"{kind}{tail}"})
            yield (
                with_fault(named, kind, passing=options.passing),
                fault_for(job, kind, length, passing=options.passing),
                kind,
            )


def clean_cases(job: TrainJob) -> Iterator[Case]:
    """Ten healthy runs: every objective, conditional and not, every family, several seeds."""
    gan = {"model": {**job.model.model_dump(mode="json")}}
    plain = {"model": {**gan["model"], "conditional": False}}
    likelihood = {"betas": [0.9, 0.999], "schedule": "cosine", "learning_rate": 1e-3}

    def latent(family: str, **model: Any) -> dict[str, Any]:
        return {"model": {"family": family, "width": job.model.width // 2 or 8, **model},
                "objective": {"kind": "elbo"}, "training": likelihood}  # fmt: skip

    def gentle(kind: str, **objective: Any) -> dict[str, Any]:
        training = {"learning_rate": 2e-4, "betas": [0.0, 0.9]}
        return {**plain, "objective": {"kind": kind, **objective}, "training": training}

    changes: dict[str, dict[str, Any]] = {
        "relativistic-0": {**gan},
        "relativistic-1": {**gan, "training": {"seed": 1}},
        "relativistic-plain": {**plain, "training": {"seed": 2}},
        "non-saturating": gentle("non-saturating"),
        "hinge": gentle("hinge"),
        "wgan-gp": gentle("wgan-gp"),
        "vae": latent("vae"),
        "vae-gaussian": latent("vae", likelihood="gaussian"),
        "vae-shaped": {
            **latent("vae"),
            "objective": {
                "kind": "elbo", "beta": 2.0, "free_bits": 0.02,
                "kl_warmup_images": job.training.images // 4,
            },
        },
        "rvae": latent("rvae"),
    }  # fmt: skip
    for name, change in changes.items():
        raw = job.model_dump(mode="json")
        training = {**raw["training"], **change.get("training", {})}
        yield (
            parse(TrainJob, {**raw, **change, "name": name, "training": training}, name),
            None,
            "none",
        )


def done_before(file: Path) -> dict[str, Row]:
    """The rows of earlier calls, by name."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return {row.name: row for row in (Row(**json.loads(line)) for line in lines)}


def go_through(cases: Iterator[Case], out: Path, say: Callable[[str], None]) -> list[Row]:
    """Run what has not been run yet."""
    file = out / "results.jsonl"
    known = done_before(file)
    rows = []
    for job, fault, kind in cases:
        row = known.get(job.name)
        if row is None or row.images != job.training.images:
            row = run_once(job, fault, kind)
            with file.open("a") as log:
                log.write(json.dumps(asdict(row)) + "\n")
        rows.append(row)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in row.distances.items())
        say(f"{row.name:24} {row.seconds:7.0f} s  {row.rolled_back} back  {shown}  {row.ended}")
        for alarm in row.alarms:
            say(f"    {alarm}")
    return rows


def summary_of_faults(rows: list[Row]) -> dict[str, Any]:
    """Final distance over that of the undisturbed run, by fault and extractor."""
    base = next(row for row in rows if row.fault == "none").distances
    ratios = {
        row.name: {name: round(row.distances[name] / value, 3) for name, value in base.items()}
        if row.distances
        else None
        for row in rows
        if row.fault != "none"
    }
    watched = [row.name for row in rows if row.fault != "none" and row.watched]
    found = [[*(ratios[name] or {"": math.inf}).values()] for name in watched]
    return {
        "recovered": sum(each[0] <= BAR for each in found),
        "recovered_on_every_extractor": sum(max(each) <= BAR for each in found),
        "of": len(watched),
        "bar": BAR,
        "ratios": ratios,
    }


def summary_of_clean_runs(rows: list[Row]) -> dict[str, Any]:
    """How many alarms there were."""
    return {
        "alarms": sum(len(row.alarms) for row in rows),
        "of": len(rows),
        "by_run": {row.name: row.alarms for row in rows if row.alarms},
    }


def main() -> None:
    """Read the command line and go through the runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("faults", "clean"))
    parser.add_argument("--job", required=True, help="a GAN's job file, with labels in its data")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--faults", default=",".join(FAULTS), help="some of these, by commas")
    parser.add_argument("--fault-images", type=int, default=50_000)
    parser.add_argument("--passing", action="store_true", help="wrong settings pass, too")
    parser.add_argument("--unwatched", action="store_true", help="also with health.enabled=false")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, such as training.images=100000")
    options = parser.parse_intermixed_args()
    options.faults = options.faults.split(",")
    if unknown := set(options.faults) - set(FAULTS):
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    overrides = [f"storage={options.out.resolve()}", "scaling.workers=0", *options.overrides]
    job = read_job(options.job, overrides, "train")
    say = (lambda line: None) if options.json else print
    cases = fault_cases(job, options) if options.what == "faults" else clean_cases(job)
    rows = go_through(cases, options.out, say)
    found = summary_of_faults(rows) if options.what == "faults" else summary_of_clean_runs(rows)
    print(json.dumps(found, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
