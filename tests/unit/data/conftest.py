"""Small shard sets with known pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from distgen.core.spec import ImageSpec
from distgen.core.storage import locate
from distgen.data import ShardSet, open_shard_set
from distgen.data.building import SetWriter
from distgen.data.formats.png import encode_plain
from distgen.data.streaming import stream

# How long an example takes says nothing on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@dataclass(frozen=True)
class Made:
    """A shard set and what was put into it."""

    shard_set: ShardSet
    folder: Path
    images_nhwc: np.ndarray
    labels_n: np.ndarray


def make_set(
    folder: Path, counts: Sequence[int], *, side: int = 4, mode: str = "L", split: str | None = None
) -> Made:
    """A set with as many samples in its shards as `counts` says."""
    total = sum(counts)
    channels = 1 if mode == "L" else 3
    random = np.random.default_rng(total)
    images_nhwc = random.integers(0, 256, (total, side, side, channels), dtype=np.uint8)
    labels_n = random.integers(0, 3, total)
    image = ImageSpec(height=side, width=side, mode=mode, classes=("a", "b", "c"))
    with SetWriter(
        locate(folder), name="made", image=image, fields=("cls", "png"), split=split
    ) as writer:
        row = 0
        for count in counts:
            for _ in range(count):
                png = encode_plain(images_nhwc[row])
                writer.add(f"sample-{row:05d}", {"png": png}, int(labels_n[row]))
                row += 1
            writer.next_shard()
        writer.commit()
    return Made(open_shard_set(str(folder)), folder, images_nhwc, labels_n)


@pytest.fixture(autouse=True)
def several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let as many threads decode the tests' tiny pictures as would decode large ones."""
    monkeypatch.setattr(stream, "SMALL_BYTES", 0)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """50 samples in shards of uneven sizes."""
    return make_set(tmp_path / "made", (20, 3, 27))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    """A factory of such sets."""

    def factory(*counts: int, name: str = "made", **options: object) -> Made:
        return make_set(tmp_path / name, counts, **options)  # type: ignore[arg-type]

    return factory
