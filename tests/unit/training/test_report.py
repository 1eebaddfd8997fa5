"""A run's page holds its pictures, however large they are."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from distgen.metrics.grid import png_of
from distgen.training.report import write_report

FIGURE = re.compile(r"src='data:image/(\w+);base64,([^']*)'><figcaption>([^<]*)<")


@pytest.fixture
def run(make_job, start):
    return start(make_job("gan"))


def noise_png(height: int, width: int) -> bytes:
    return png_of(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def figures(run) -> list[tuple[str, bytes, str]]:
    write_report(run, run.job())
    found = FIGURE.findall(run.report.read_text())
    return [(kind, base64.b64decode(data), caption) for kind, data, caption in found]


def test_a_small_sheet_is_in_the_page_byte_for_byte(run):
    sheet = noise_png(60, 90)
    (run.samples / "fakes-000000064.png").write_bytes(sheet)
    assert figures(run) == [("png", sheet, "Generated, after 64 images")]


def test_a_large_sheet_is_shown_reduced_and_named(run):
    (run.samples / "fakes-000000064.png").write_bytes(noise_png(1500, 3000))
    ((kind, data, caption),) = figures(run)
    assert (kind, len(data) < 2**20) == ("webp", True)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (1056, 528)
    assert caption.endswith("(reduced; whole in samples/fakes-000000064.png)")


def test_a_clip_that_is_too_large_is_named(run):
    (run.samples / "reals.gif").write_bytes(bytes(9 << 20))
    assert figures(run) == []
    assert "Real: samples/reals.gif" in run.report.read_text()
