"""`distgen sample` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgen.core.storage import locate
from distgen.registry import write_bundle
from tests.unit.registry.small_bundles import GAN, SPEC, state_of


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    write_bundle(
        locate(tmp_path / "bundle"),
        model_config=GAN,
        spec=SPEC,
        state=state_of(GAN, SPEC, 0),
        card=None,
        samples_png=None,
        name="small",
        images_seen=1,
    )
    return str(tmp_path / "bundle")


@pytest.mark.parametrize("kind", ["grid", "interpolate"])
def test_a_sheet_has_a_class_to_a_row(kind: str, distgen, bundle, tmp_path):
    out = tmp_path / "sheet.png"
    result = distgen("sample", bundle, "--kind", kind, "--columns", "5", "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert "3 x 5 pictures by small" in result.stdout
    with Image.open(out) as image:
        assert image.size == (5 * 66 + 2, 3 * 66 + 2)  # 16 pixels, enlarged four times, and gaps


def test_the_same_words_make_the_same_bytes_and_another_seed_others(distgen, bundle, tmp_path):
    def sheet(*options: str) -> bytes:
        result = distgen("sample", bundle, "--out", f"{tmp_path}/x.png", "--json", *options)
        assert json.loads(result.stdout)["model"] == "small"
        return (tmp_path / "x.png").read_bytes()

    plain = sheet()
    assert sheet() == plain
    others = [sheet("--seed", "1"), sheet("--truncation", "0.3"), sheet("--class", "one")]
    assert len({plain, *others}) == 4


def test_with_hardly_any_latents_a_row_is_one_picture(distgen, bundle, tmp_path):
    distgen("sample", bundle, "--out", f"{tmp_path}/x.png", "--truncation", "0.05")
    with Image.open(tmp_path / "x.png") as image:
        pixels = np.asarray(image).astype(int)
    first, second = pixels[2:66, 2:66], pixels[2:66, 68:132]
    assert np.abs(first - second).max() < 30


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--kind", "gird"), "did you mean 'grid'"),
        (("--class", "two", "--class", "onee"), "did you mean 'one'"),
        (("--truncation", "0"), "truncation"),
        (("--truncation", "nan"), "truncation"),
        (("--out", "/dev/null/x.png"), "/dev/null"),
        (("--rows", "65"), "--rows"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, said, distgen, bundle):
    result = distgen("sample", bundle, *options)
    assert result.returncode == 2
    assert said in result.stderr
