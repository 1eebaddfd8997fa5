"""The endpoint against the model alone: what HTTP, batching and the proxy cost."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch

from distgen.bench.load import Load
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location, locate
from distgen.launch.cluster import connect
from distgen.metrics.grid import to_uint8_nhwc
from distgen.models import GANConfig, build_networks
from distgen.registry.bundle import load_bundle, write_bundle
from distgen.serving.making.encode import encode_png
from distgen.serving.making.engine import network_of

CONNECTIONS = 32
BATCH = 32

# As much work as DCGAN's generator for such pictures (torchgan's: 18 million multiplications and
# additions for each, this one: 19).
_SPEC = ImageSpec(
    height=32, width=32, mode="RGB", classes=tuple(f"class {number}" for number in range(10))
)
_MODEL = GANConfig(conditional=True, width=128)


def bench_serve(*, requests: int = 6_000, seconds: float = 30.0, rounds: int = 3) -> dict[str, Any]:
    """Images per second through one replica, over those of a bare loop on one core.

    The bare loop runs the same weights in the same memory layout and writes PNGs with the same
    encoder, in batches of 32 without anybody waiting. Endpoint and loop take turns on this machine;
    the load generator is a process of its own and shares the cores with the endpoint. Weights are
    random: they do not change the work.

    Args:
        requests: The most requests of one measurement.
        seconds: The longest time of one measurement.
        rounds: Measurements of each kind; medians count.

    Returns:
        `ratio` for requests of one image over 32 connections, and its parts.
    """
    from distgen.serving.deploy.endpoint import running

    singles: list[Load] = []
    sixteens: list[Load] = []
    bare: dict[int, list[float]] = {1: [], BATCH: []}
    with tempfile.TemporaryDirectory(prefix="distgen-bench-") as folder, connect():
        bundle = locate(folder) / "bundle"
        _write_bundle(bundle)
        with running(bundle, port=0) as url:
            _load(url, requests=200, seconds=seconds, n=1)  # connections, caches, clocks
            for _ in range(rounds):
                for batch, speeds in bare.items():
                    speeds.append(bare_images_per_s(bundle, batch, seconds=2.0))
                singles.append(_load(url, requests=requests, seconds=seconds, n=1))
                sixteens.append(_load(url, requests=requests // 8, seconds=seconds, n=16))
    bare_32 = statistics.median(bare[BATCH])
    images_per_s = statistics.median(load.images_per_s for load in singles)
    images_per_s_16 = statistics.median(load.images_per_s for load in sixteens)
    return {
        "ratio": images_per_s / bare_32,
        "ratio_to_bare_batch_1": images_per_s / statistics.median(bare[1]),
        "ratio_n16": images_per_s_16 / bare_32,
        "images_per_s": images_per_s,
        "p50_ms": statistics.median(load.p50_ms for load in singles),
        "p99_ms": statistics.median(load.p99_ms for load in singles),
        "images_per_s_n16": images_per_s_16,
        "bare_images_per_s_batch_32": bare_32,
        "bare_images_per_s_batch_1": statistics.median(bare[1]),
        "failed_requests": sum(load.failed for load in singles + sixteens),
        "connections": CONNECTIONS,
        "model": "gan, 32x32 RGB, 10 classes, width 128, random weights",
    }


def bare_images_per_s(bundle: Location, batch: int, seconds: float) -> float:
    """Forward passes and PNGs in a loop on one core."""
    loaded = load_bundle(bundle)
    loaded.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = network_of(loaded)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    labels_n = torch.arange(batch) % network.num_classes
    images = 0
    try:
        with torch.inference_mode():
            started = time.perf_counter()
            while (elapsed_s := time.perf_counter() - started) < seconds:
                latents_nd = torch.randn(batch, network.latent_dim)
                encode_png(to_uint8_nhwc(network.sample(latents_nd, labels_n)))
                images += batch
    finally:
        torch.set_num_threads(threads)
    return images / elapsed_s


def _load(url: str, *, requests: int, seconds: float, n: int) -> Load:
    arguments = [url, str(CONNECTIONS), str(requests), str(int(seconds)), str(n)]
    command = [sys.executable, "-m", "distgen.bench.load", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return Load(**json.loads(done.stdout))


def _write_bundle(location: Location) -> None:
    write_bundle(
        location,
        model_config=_MODEL,
        spec=_SPEC,
        state=build_networks(_MODEL, _SPEC)["generator"].state_dict(),
        card=None,
        samples_png=None,
        name="bench",
        images_seen=0,
    )
