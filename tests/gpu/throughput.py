"""How fast one GPU trains: images/s, model FLOPs utilisation (MFU), waiting for pictures.

    make install                      # or any environment with torch 2.11 or newer
    .venv/bin/python tests/gpu/throughput.py
    .venv/bin/python tests/gpu/throughput.py --only gan-64 --steps 200 --json
    .venv/bin/distgen bench train --profile scaling.workers=0    # where a step's time goes

It needs no Ray and no data: shard sets of smooth random pictures (JPEG from 64 pixels on) are built
in a temporary folder, and the trainer of `scaling.workers: 0` streams them as it would any other.
A case is warmed up, which is when networks are compiled and kernels are chosen, and then timed over
whole steps between two synchronisations.

FLOPs of a step are counted by the formulas of torch's flop counter over forward, backward and the
gradient of penalties, on the CPU with the same networks and a few pictures. MFU is these FLOPs per
second over the GPU's dense bf16 peak (distgen/bench/scale/devices.py, or --peak), though the
discriminator's part runs in fp32 because of its penalties: it says what a GPU's peak would allow,
not what fp32 does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from distgen.bench.flops import flops_per_image
from distgen.bench.scale.devices import peak_of
from distgen.core.config import parse
from distgen.core.world import World
from distgen.data import open_shard_set
from distgen.data.building import build
from distgen.training.job import TrainJob
from distgen.training.process import suited
from distgen.training.run import open_pictures, prepare
from distgen.training.trainer import Trainer

CLASSES = 10


@dataclass(frozen=True)
class Case:
    """One network on pictures, or clips, of one size."""

    name: str
    size: int
    model: dict[str, Any]
    batch_size: int
    precision: str = "auto"
    frames: int | None = None
    """Of its clips; None: it makes pictures."""


def gan(size: int, width: int, batch_size: int) -> Case:
    model = {"family": "gan", "latent_dim": 128, "width": width, "conditional": True}
    return Case(f"gan-{size}", size, model, batch_size)


def residual(size: int, width: int, batch_size: int) -> Case:
    case = gan(size, width, batch_size)
    return replace(case, name=f"r3gan-{size}", model={**case.model, "network": "residual"})


def clips(size: int, width: int, batch_size: int, frames: int) -> Case:
    model = {"family": "clip-rvae", "width": width}
    return Case(f"clips-{size}", size, model, batch_size, frames=frames)


CASES = (
    gan(32, 256, 512),
    gan(64, 256, 256),
    gan(128, 512, 128),
    gan(256, 512, 64),
    residual(32, 256, 256),
    residual(64, 256, 128),
    Case("vae-64", 64, {"family": "vae", "width": 256, "likelihood": "gaussian"}, 512),
    Case("rvae-32", 32, {"family": "rvae", "width": 512, "likelihood": "gaussian"}, 512),
    clips(64, 128, 64, frames=20),
)
TINY = (
    gan(16, 8, 8),
    Case("vae-16", 16, {"family": "vae", "width": 8, "likelihood": "gaussian"}, 8),
    Case("rvae-16", 16, {"family": "rvae", "width": 8, "likelihood": "gaussian"}, 8),
    residual(16, 16, 8),
    clips(16, 8, 8, frames=4),
)
"""For a test on CPUs."""


@dataclass(frozen=True)
class Figures:
    """What was measured for a case."""

    name: str
    device: str
    batch_size: int
    precision: str
    images_per_s: float
    step_ms: float
    data_wait: float
    """Share of the time in which the step waited for pictures."""
    gflops_per_image: float
    """Floating-point operations of training on one picture, in 10^9."""
    tflops: float
    """Of the model, per second, in 10^12."""
    peak_tflops: float | None
    """The device's; None where it is not known."""
    mfu: float | None
    """`tflops` over `peak_tflops`."""
    memory_gib: float
    """Peak of the GPU's memory, or of this process's."""
    not_compiled: tuple[str, ...]
    """Networks that torch.compile refused."""


def measure(case: Case, folder: Path, *, steps: int, pictures: int, peak: float | None) -> Figures:
    """Build the shard set of `case` below `folder`, train on it for a while, and time `steps`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    warmup = max(3, steps // 10)
    job = make_job(case, folder, warmup + steps, pictures)
    run = prepare(job, open_pictures(job).fingerprint)
    trainer = Trainer(job, World(), device, lambda _: False)
    with suited(device), trainer.open_stream() as stream:
        for _ in range(warmup):
            trainer.advance(stream)
        synchronise(device)
        trainer.meters.reset()
        for _ in range(steps):
            trainer.advance(stream)
        synchronise(device)
        reading = trainer.meters.read(trainer.collective)
    trainer.keeper.settle()
    if trainer.curves is not None:
        trainer.curves.close()
    flops = flops_per_image(job, open_shard_set(job.data.shards, "train").spec)
    tflops = flops * reading.images_per_s / 1e12
    if peak is None and device.type == "cuda":
        peak = peak_of(torch.cuda.get_device_name(device))
    return Figures(
        name=case.name,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        batch_size=case.batch_size,
        precision=case.precision,
        images_per_s=reading.images_per_s,
        step_ms=1000 * case.batch_size / reading.images_per_s,
        data_wait=reading.data_wait,
        gflops_per_image=flops / 1e9,
        tflops=tflops,
        peak_tflops=peak,
        mfu=None if peak is None else tflops / peak,
        memory_gib=reading.memory_gib,
        not_compiled=tuple(
            event["network"]
            for event in run.events()
            if event["event"] == "runs without torch.compile"
        ),
    )


def make_job(case: Case, folder: Path, steps: int, pictures: int) -> TrainJob:
    """The training job of a case, on a shard set that is built if it is not there."""
    kind = "clips" if case.frames else "pictures"
    shards, drawn = folder / f"shards-{kind}-{case.size}", folder / f"{kind}-{case.size}"
    if not shards.exists():
        if case.frames:
            draw_clips(drawn, case.size, case.frames, pictures // case.frames)
        else:
            draw_pictures(drawn, case.size, pictures)
        build(str(drawn), str(shards), split=0.0, frames=case.frames)
    images = (steps + 1) * case.batch_size  # the last step's work at a run's end is not measured
    raw = {
        "name": case.name,
        "storage": str(folder / "runs"),
        "data": {"shards": str(shards), "decode_threads": 8, "prefetch_batches": 8},
        "model": case.model,
        "training": {
            "images": images,
            "batch_size": case.batch_size,
            "precision": case.precision,
            # Nothing but steps lies in the measured part.
            "log_every": 10 * images,
            "checkpoint_every": 10 * images,
            "evaluate_every": 10 * images,
        },
    }
    return parse(TrainJob, raw, "the benchmark's job")


def draw_pictures(folder: Path, size: int, count: int) -> None:
    """Smooth random pictures by class, as compressible as photographs."""
    random = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class-{label}").mkdir(parents=True)
    for number in range(count):
        coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        noisy = np.asarray(picture, np.int16) + random.normal(0, 6, (size, size, 3)).astype(
            np.int16
        )
        end = "png" if size < 64 else "jpg"
        place = folder / f"class-{number % CLASSES}" / f"{number:06d}.{end}"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place)


def draw_clips(folder: Path, size: int, frames: int, count: int) -> None:
    """Clips in which a random texture moves sideways."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(max(count, 8)):
        texture_hwc = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
        moved = [np.roll(texture_hwc, 2 * step, axis=1) for step in range(frames)]
        np.save(folder / f"{number:06d}.npy", np.stack(moved))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_all(
    cases: Sequence[Case], *, steps: int, pictures: int, peak: float | None = None
) -> Iterator[Figures]:
    """The cases one after the other, in a folder that is removed afterwards."""
    with working_folder() as folder:
        for case in cases:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            yield measure(case, folder, steps=steps, pictures=pictures, peak=peak)


@contextmanager
def working_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="distgen-throughput-") as name:
        yield Path(name)


def line_of(figures: Figures) -> str:
    """One line for a person."""
    mfu = "MFU unknown" if figures.mfu is None else f"MFU {figures.mfu:6.1%}"
    plain = f", not compiled: {', '.join(figures.not_compiled)}" if figures.not_compiled else ""
    return (
        f"{figures.name:9} batch {figures.batch_size:4}  {figures.images_per_s:10,.0f} img/s  "
        f"{figures.step_ms:8.2f} ms/step  {figures.tflops:7.2f} TFLOP/s  {mfu}  "
        f"waiting for pictures {figures.data_wait:5.1%}  {figures.memory_gib:5.1f} GiB{plain}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names of cases")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=4096, help="of each shard set")
    parser.add_argument("--peak", type=float, help="TFLOP/s, where the GPU is not in the table")
    parser.add_argument("--tiny", action="store_true", help="the small cases of the unit test")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cases = [
        case
        for case in (TINY if options.tiny else CASES)
        if not options.only or case.name in options.only
    ]
    results = []
    for figures in measure_all(
        cases, steps=options.steps, pictures=options.pictures, peak=options.peak
    ):
        results.append(asdict(figures))
        if not options.json:
            print(line_of(figures), flush=True)
    if options.json:
        print(json.dumps({"torch": torch.__version__, "cases": results}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
