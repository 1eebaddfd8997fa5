"""A build holds as many pictures as it works on, however many there are."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distgen.data.building import build
from tests.unit.data.foreign_tars import write_tar

FEW = 200


def pictures(count: int) -> list[bytes]:
    """PNGs of 12 KB, all different."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        file = io.BytesIO()
        pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG", compress_level=0)
        found.append(file.getvalue())
    return found


def source(kind: str, folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    data = pictures(count)
    if kind == "parquet":
        pq.write_table(pa.table({"image": data}), folder / "a.parquet", row_group_size=50)
    elif kind == "folder":
        for number, each in enumerate(data):
            (folder / f"{number}.png").write_bytes(each)
    else:
        write_tar(folder / "a.tar", [(f"{number}.png", each) for number, each in enumerate(data)])
    if kind == "set":
        built = folder.with_name(f"{folder.name}-as-set")
        build(str(folder), built, encoding="png")
        return built
    return folder


@pytest.mark.parametrize("kind", ["folder", "parquet", "tars", "set"])
def test_four_times_the_pictures_take_no_more_memory(tmp_path: Path, kind: str) -> None:
    peaks = []
    # The first fills caches and imports what is imported late.
    for name, count in (("warm", 20), ("few", FEW), ("many", 4 * FEW)):
        place = source(kind, tmp_path / name, count)
        arrow = pa.default_memory_pool()
        before = arrow.bytes_allocated()
        tracemalloc.start()
        build(str(place), tmp_path / f"{name}-set", encoding="jpg", workers=1, shard_samples=100)
        peaks.append(tracemalloc.get_traced_memory()[1] + arrow.bytes_allocated() - before)
        tracemalloc.stop()
    # Three times 200 pictures are 7 MB; what is kept of each is a few hundred bytes.
    assert peaks[2] - peaks[1] < 2 << 20, peaks
