"""`distgen sample` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgen.core.spec import ImageSpec
from distgen.core.storage import locate
from distgen.metrics.card import Card
from distgen.metrics.latents import LatentGroupScores, LatentScores, Strength
from distgen.models import ClipRVAEConfig, ModelConfig, VAEConfig
from distgen.registry import write_bundle
from tests.unit.registry.small_bundles import GAN, SPEC, card, state_of

CLIPS = ImageSpec(height=16, width=16, mode="L", frames=5)


def written(
    folder: Path, config: ModelConfig, spec: ImageSpec, measured: Card | None = None
) -> str:
    write_bundle(
        locate(folder),
        model_config=config,
        spec=spec,
        state=state_of(config, spec, 0),
        card=measured,
        samples_png=None,
        name="small",
        images_seen=1,
    )
    return str(folder)


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    return written(tmp_path / "bundle", GAN, SPEC)


@pytest.fixture
def measured(tmp_path: Path) -> str:
    """A VAE of three latents, of which the last holds most and the second nothing."""
    held = {2: 4.0, 0: 1.0, 1: 0.0}
    group = LatentGroupScores(
        size=3,
        kl_nats=5.0,
        active=2,
        strongest=tuple(Strength(index=index, kl_nats=kl) for index, kl in held.items()),
    )
    latents = LatentScores(
        rate_nats=5.0, distortion_nats=90.0, active=2, active_variance=0.01, groups=(group,),
        curve=(), images=10, split="test",
    )  # fmt: skip
    config = VAEConfig(latent_dim=3, width=8)
    return written(
        tmp_path / "vae", config, SPEC, card(9.0).model_copy(update={"latents": latents})
    )


@pytest.fixture
def clips(tmp_path: Path) -> str:
    return written(tmp_path / "clips", ClipRVAEConfig(latent_dim=2, width=8, state=8), CLIPS)


def test_a_traversal_has_a_row_for_each_latent_that_holds_something(distgen, measured, tmp_path):
    heights = []
    for rows in ("2", "1"):
        out = tmp_path / f"{rows}.png"
        result = distgen(
            "sample", measured, "--kind", "traverse", "--rows", rows, "--out", str(out)
        )
        assert result.returncode == 0, result.stderr
        assert "Latents, the strongest first, by small" in result.stdout
        with Image.open(out) as image:
            heights.append(image.height)
    assert heights[0] - heights[1] == 16 * 4 + 2  # one row: 16 pixels, enlarged, and a gap


def test_clips_play_or_lie_side_by_side(distgen, clips, tmp_path):
    sizes = {}
    for name in ("a.png", "a.gif", "a.webp"):
        result = distgen(
            "sample", clips, "--rows", "2", "--columns", "3", "--out", f"{tmp_path}/{name}"
        )
        assert result.returncode == 0, result.stderr
        assert "2 x 3 clips by small" in result.stdout
        with Image.open(tmp_path / name) as image:
            sizes[name] = (*image.size, getattr(image, "n_frames", 1))
    assert sizes["a.gif"] == sizes["a.webp"] == (3 * 66 + 2, 2 * 66 + 2, 5)
    assert sizes["a.png"] == (5 * 66 + 2, 6 * 66 + 2, 1)


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
        (("--kind", "traverse"), "--kind interpolate"),
        (("--out", "sheet.gif"), ".png"),
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
