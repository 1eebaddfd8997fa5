"""What a step of one rank costs where no rank waits for another, from whatever is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from distgen.bench.scale.devices import Device
from distgen.core.errors import UsageError
from distgen.training.shared_memory import EXCHANGE

NOISE = "random numbers"
"""The span in which they are drawn."""
BACKWARD = ": backward"
"""How the span of a phase's backward ends."""


@dataclass(frozen=True)
class Point:
    """A rank's step on so many images."""

    images: int
    step_s: float
    cpu_s: float
    """Of all threads of the rank's process, decoding included."""


@dataclass(frozen=True)
class Compute:
    """A rank's step as a straight line over its images, and what it consists of."""

    step_s: float
    """Seconds that a step takes however few images it has."""
    image_s: float
    """Seconds for each image of the rank."""
    noise_s: float = 0.0
    """Seconds for the random numbers of one image; every rank draws them for the whole batch."""
    cpu_step_s: float = 0.0
    cpu_image_s: float = 0.0
    """The same two in CPU seconds, which ranks of a host take from its cores; 0: not known."""
    backward: Mapping[str, float] = field(default_factory=dict)
    """Share of the step that is each phase's backward; phases that are not named have none."""
    overlaps: bool = True
    """Whether sums over ranks go on beside backward, as on GPUs: on CPUs they take its cores."""
    source: str = ""
    """Where these figures are from, for people."""

    def rank_s(self, images: float) -> float:
        """Seconds of a step on so many images of a rank."""
        return self.step_s + self.image_s * images

    def cpu_s(self, images: float) -> float:
        """CPU seconds of the same."""
        return self.cpu_step_s + self.cpu_image_s * images


def line(images: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Seconds of a step and for each image, by least squares; neither is negative.

    One measurement says nothing of what a step costs in itself: all of it is the images' then.
    """
    mean_s, mean_images = float(np.mean(seconds)), float(np.mean(images))
    through_zero = 0.0, mean_s / mean_images
    if len(set(images)) == 1:
        return through_zero
    slope, at_zero = np.polyfit(images, seconds, 1)
    if slope <= 0:
        return mean_s, 0.0
    return (float(at_zero), float(slope)) if at_zero > 0 else through_zero


def from_points(
    points: Sequence[Point],
    parts: Mapping[str, float],
    *,
    batch: int,
    overlaps: bool,
    source: str,
) -> Compute:
    """The line through measurements.

    Args:
        points: One or more.
        parts: Seconds or shares of one of these steps, by the names of its spans.
        batch: Images whose random numbers that step has drawn.
        overlaps: See `Compute`.
        source: See `Compute`.
    """
    images = [point.images for point in points]
    step_s, image_s = line(images, [point.step_s for point in points])
    cpu_step_s, cpu_image_s = line(images, [point.cpu_s for point in points])
    total = sum(parts.values())
    length_s = step_s + image_s * batch
    backward = {
        name.removesuffix(BACKWARD): seconds / total
        for name, seconds in parts.items()
        if name.endswith(BACKWARD)
    }
    return Compute(
        step_s=step_s,
        image_s=image_s,
        noise_s=parts.get(NOISE, 0.0) / total * length_s / batch if total else 0.0,
        cpu_step_s=cpu_step_s,
        cpu_image_s=cpu_image_s,
        backward=backward,
        overlaps=overlaps,
        source=source,
    )


def assumed_backward(phases: Sequence[str], share: float) -> dict[str, float]:
    """A share of the step that is backward, divided evenly among phases."""
    return {phase: share / len(phases) for phase in phases}


def from_times(
    texts: Sequence[str], batch: int, phases: Sequence[str], *, share: float, threads: int
) -> Compute:
    """From what a user has measured: `MS`, of a step on the whole batch, or `IMAGES:MS`.

    Args:
        texts: What the user gave.
        batch: Images of the job's batch.
        phases: Names of the job's phases.
        share: Of a step that is backward.
        threads: Cores that a worker computes on; 0: it has a GPU.

    Raises:
        UsageError: A text is neither.
    """
    points = []
    for text in texts:
        images, colon, ms = text.rpartition(":")
        try:
            point = Point(int(images) if colon else batch, float(ms) / 1000, 0.0)
        except ValueError:
            point = Point(0, 0.0, 0.0)
        if point.images < 1 or not 0 < point.step_s < 1e6:
            raise UsageError(
                f"{text!r} is no time of a step.",
                where="--step-ms",
                remedy="milliseconds of one worker's step, such as 41.5, or 64:12.3 for 64 images",
            )
        points.append(replace(point, cpu_s=threads * point.step_s))
    source = "--step-ms " + " ".join(texts)
    compute = from_points(points, {}, batch=batch, overlaps=threads == 0, source=source)
    return replace(compute, backward=assumed_backward(phases, share))


def from_report(
    report: Mapping[str, Any], family: str, phases: Sequence[str], share: float
) -> Compute:
    """From what `distgen bench train --json` printed, with `--profile` or without.

    Args:
        report: The JSON object.
        family: The job's.
        phases: Names of the job's phases.
        share: Of a step that is backward, where the report does not say.

    Raises:
        UsageError: It is no such report, or has nothing of this family.
    """
    entries = report.get("profiles") or [report, *report.values()]
    mine = [
        entry for entry in entries if isinstance(entry, Mapping) and entry.get("family") == family
    ]
    try:
        points, parts, on_gpu = [], {}, False
        for entry in mine:
            images = int(entry["batch_size"]) // int(entry["workers"])
            parts = {k: float(v) for k, v in entry.get("parts", {}).items() if k != EXCHANGE}
            ms = sum(parts.values()) or 1000 * entry["batch_size"] / entry["distgen_images_per_s"]
            on_gpu = entry.get("device", "cpu") != "cpu"
            points.append(Point(images, ms / 1000, 0.0 if on_gpu else ms / 1000))
        batch = int(mine[-1]["batch_size"]) if mine else 0
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise _no_report(f"{type(error).__name__}: {error}") from error
    if not points:
        raise _no_report(f"it has nothing of the family {family!r}")
    joined = "" if parts or mine[-1]["workers"] == 1 else ", the sums of its workers included"
    source = f"a report of {points[-1].images} images on each worker{joined}"
    compute = from_points(points, parts, batch=batch, overlaps=on_gpu, source=source)
    return replace(compute, backward=compute.backward or assumed_backward(phases, share))


def _no_report(cause: str) -> UsageError:
    return UsageError(
        "This is no report of this job's speed.",
        where="--measured",
        cause=cause,
        remedy="distgen bench train JOB --profile --json > speed.json",
    )


def from_flops(
    flops: float,
    device: Device,
    phases: Sequence[str],
    *,
    mfu: float,
    overhead_s: float,
    share: float,
) -> Compute:
    """From operations of an image over a share of the device's peak.

    Args:
        flops: Of one image's training.
        device: The GPU.
        phases: Names of the job's phases.
        mfu: Share of the peak that is reached.
        overhead_s: Seconds of a step that no image takes: starting kernels.
        share: Of a step that is backward.
    """
    return Compute(
        step_s=overhead_s,
        image_s=flops / (mfu * device.tflops * 1e12),
        backward=assumed_backward(phases, share),
        source=f"{flops / 1e9:,.3g} GFLOP an image on a {device.name} of {device.tflops:,.0f} "
        f"TFLOP/s, of which {mfu:.0%} are reached",
    )
