"""How much of the bare decoder's speed a stream delivers, both sides measured in one run.

The bare side is the best that a loop with the same decoder can do: the same encoded pictures lie in
RAM, in the order in which the stream gives them, each thread decodes whole batches into one array
of its own, and nothing is checked. The stream reads shards, checks every checksum, and hands over
batches. Both use the same number of threads. Rounds of the two sides alternate, so that a busy
machine slows both; speeds are medians over the rounds, ratios medians of the rounds' ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distgen.core.spec import Mode
from distgen.data import ShardSet, Stream, open_shard_set
from distgen.data.building import build
from distgen.data.building.convert import Encoding
from distgen.data.building.sources.item import Item, Source, hashed
from distgen.data.formats.decode import decode_into
from distgen.data.keeping.cache import Cache
from distgen.data.streaming.read import SampleReader

_OCTAVES = (2, 4, 8, 16, 32, 64, 128)
_JPEG_QUALITY = 92  # about 17 KB for a synthetic picture of 256x256


def bench_data(
    *,
    jpegs: int = 1024,
    pngs: int = 8192,
    batch_size: int = 64,
    threads: int = 2,
    rounds: int = 15,
    round_s: float = 0.3,
    on_progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The ratio of a stream to the bare decode loop, for JPEGs of 256x256 and PNGs of 28x28.

    Args:
        jpegs: Synthetic photographs to make, 256x256 RGB.
        pngs: Synthetic drawings to make, 28x28 grey.
        batch_size: Pictures of a batch.
        threads: Threads that decode, on both sides.
        rounds: Measurements of each side.
        round_s: Seconds that each takes.
        on_progress: Told what is being done.

    Returns:
        `ratio`, that of the JPEGs without a cache, and beside it the images per second of both
        sides, the same for PNGs, and for PNGs from the cache in memory.
    """
    report = on_progress or (lambda _text: None)
    plan = _Plan(batch_size, threads, rounds, round_s)
    kinds: tuple[tuple[str, _Pictures, Encoding], ...] = (
        ("jpeg_256", photographs(jpegs), "jpg"),
        ("png_28", _Pictures("png", pngs, 28, "L"), "png"),
    )
    results: dict[str, Any] = {"ratio": 0.0}
    with tempfile.TemporaryDirectory(prefix="distgen-bench-") as folder:
        for name, source, encoding in kinds:
            report(f"making {source.count:,} pictures ({name})")
            shard_set = make(source, Path(folder, name), encoding)
            report(f"measuring {name}")
            results |= _compare(name, shard_set, plan)
    results["ratio"] = results["jpeg_256_ratio"]
    return results | {"batch_size": batch_size, "threads": threads, "rounds": rounds}


@dataclass(frozen=True)
class _Plan:
    """What both sides do."""

    batch_size: int
    threads: int
    rounds: int
    round_s: float


def _compare(name: str, shard_set: ShardSet, plan: _Plan) -> dict[str, Any]:
    batches = _encoded_batches(shard_set, plan.batch_size)
    spec = shard_set.spec
    shape = (plan.batch_size, spec.height, spec.width, spec.channels)
    sides: dict[str, list[float]] = {"bare": [], "stream": [], "cached": []}
    with (
        ThreadPoolExecutor(plan.threads) as pool,
        _stream(shard_set, plan, "none") as stream,
        _stream(shard_set, plan, "memory") as cached,
    ):
        for _ in range(len(batches) + 1):  # an epoch, so that every picture is in the cache
            next(cached)
        for _ in range(plan.rounds):
            sides["bare"].append(_bare_speed(pool, plan, batches, shape))
            sides["stream"].append(_stream_speed(stream, plan.round_s))
            sides["cached"].append(_stream_speed(cached, plan.round_s))
    speeds = {side: statistics.median(values) for side, values in sides.items()}

    def ratio(side: str) -> float:
        # Of each round's pair: what else the machine does changes from round to round.
        pairs = zip(sides[side], sides["bare"], strict=True)
        return statistics.median(ours / bare for ours, bare in pairs)

    encoded = [len(data) for batch in batches for data in batch]
    return {
        f"{name}_ratio": ratio("stream"),
        f"{name}_stream_images_per_s": speeds["stream"],
        f"{name}_bare_images_per_s": speeds["bare"],
        f"{name}_cached_ratio": ratio("cached"),
        f"{name}_cached_images_per_s": speeds["cached"],
        f"{name}_pictures": len(encoded),
        f"{name}_mean_bytes": statistics.mean(encoded),
    }


def _bare_speed(
    pool: ThreadPoolExecutor,
    plan: _Plan,
    batches: Sequence[Sequence[bytes]],
    shape: tuple[int, ...],
) -> float:
    """Images per second of threads that decode bytes in RAM into one array each."""

    def decode(part: Sequence[Sequence[bytes]], out_nhwc: np.ndarray, stop: float) -> int:
        count = 0
        for batch in cycle(part):
            for data, out_hwc in zip(batch, out_nhwc, strict=True):
                decode_into(data, out_hwc)
            count += len(batch)
            if time.perf_counter() >= stop:
                break
        return count

    # Touched before the clock starts: page faults are not the decoder's.
    outputs = [np.zeros(shape, np.uint8) for _ in range(plan.threads)]
    begin = time.perf_counter()
    work = [
        pool.submit(decode, batches[part :: plan.threads], outputs[part], begin + plan.round_s)
        for part in range(plan.threads)
    ]
    images = sum(future.result() for future in work)
    return images / (time.perf_counter() - begin)


def _stream_speed(stream: Stream, round_s: float) -> float:
    """Images per second of a stream whose consumer does nothing."""
    # What was made ready while the other side was measured must not count.
    for _ in range(stream.ahead):
        next(stream)
    images = 0
    begin = time.perf_counter()
    while not images or time.perf_counter() - begin < round_s:
        images += len(next(stream))
    return images / (time.perf_counter() - begin)


def _stream(shard_set: ShardSet, plan: _Plan, cache: Cache) -> Stream:
    return Stream(shard_set, batch_size=plan.batch_size, decode_threads=plan.threads, cache=cache)


def _encoded_batches(shard_set: ShardSet, batch_size: int) -> list[list[bytes]]:
    """The encoded pictures of an epoch in the order of the stream."""
    reader = SampleReader(shard_set)
    with Stream(shard_set, batch_size=batch_size, epochs=1, epoch_end="drop") as stream:
        batches = [[bytes(data) for data in reader.encoded(batch.indices_n)] for batch in stream]
    reader.close()
    return batches


def make(source: Source, folder: Path, encoding: Encoding) -> ShardSet:
    """A shard set of a source's pictures."""
    build(source, folder, encoding=encoding, quality=_JPEG_QUALITY, shard_samples=2048)
    return open_shard_set(str(folder))


def photographs(count: int) -> _Pictures:
    """Synthetic photographs, 256x256 in colour."""
    return _Pictures("jpeg", count, 256, "RGB")


@dataclass(frozen=True)
class _Pictures:
    """A source of synthetic pictures: noise of several octaves, as smooth as a photograph."""

    name: str
    count: int
    side: int
    mode: Mode
    classes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    default_split: float = 0.0

    @property
    def default_size(self) -> tuple[int, int]:
        return self.side, self.side

    @property
    def default_mode(self) -> Mode:
        return self.mode

    def items(self, _split: str | None, /) -> Sequence[Item]:
        return [
            Item(f"{self.name}-{row:06d}", f"{self.name}[{row}]", -1, self._picture(row))
            for row in range(self.count)
        ]

    def _picture(self, row: int) -> np.ndarray:
        random = np.random.default_rng(hashed(self.name, str(row)))
        channels = 1 if self.mode == "L" else 3
        total = np.zeros((self.side, self.side, channels), np.float32)
        for octave in _OCTAVES:
            if octave > self.side // 2:
                break
            # Amplitude falls with frequency, as it does in photographs.
            noise = random.normal(128, 160 / octave, (octave, octave, channels)).clip(0, 255)
            small = noise.astype(np.uint8)
            image = Image.fromarray(small[:, :, 0] if channels == 1 else small)
            large = image.resize((self.side, self.side), Image.Resampling.BICUBIC)
            total += np.asarray(large, np.float32).reshape(total.shape) - 128
        return (total + 128).clip(0, 255).astype(np.uint8)
