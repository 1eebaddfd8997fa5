"""Clips of animated GIF, WebP and PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distgen.core.errors import DataError
from distgen.data import open_shard_set
from distgen.data.building import build, clips

from .test_clips import by_key, rejected

KINDS = {"gif": {}, "webp": {"lossless": True}, "png": {}}


def animation(path: Path, frames: int, **options: Any) -> list[Image.Image]:
    """An animation of random frames of 60 colours, which all three formats keep exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(frames)
    palette = random.integers(0, 256, (60, 3), dtype=np.uint8)
    pictures = [
        Image.fromarray(palette[random.integers(0, 60, (9, 12))]).quantize(64)
        for _ in range(frames)
    ]
    if path.suffix != ".gif":
        pictures = [picture.convert("RGB") for picture in pictures]
    options |= KINDS[path.suffix[1:]]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40, **options)
    return [picture.convert("RGB") for picture in pictures]


@pytest.mark.parametrize("run_frames", [1, 512])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_frame_of_an_animation_is_the_one_a_viewer_shows(
    tmp_path: Path, kind: str, run_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "RUN_FRAMES", run_frames)
    pictures = animation(tmp_path / "v" / f"a.{kind}", 11)
    built = build(str(tmp_path / "v"), tmp_path / "set", frames=2, stride=2)
    found = by_key(tmp_path / "set")
    assert found.keys() == {"a-c00000", "a-c00001", "a-c00002"}
    for number in range(3):
        expected = [np.asarray(pictures[4 * number + step]) for step in (0, 2)]
        assert np.array_equal(found[f"a-c{number:05d}"], np.stack(expected))
    assert built.left_out == 0


def test_the_name_does_not_say_what_a_file_is(tmp_path: Path) -> None:
    pictures = animation(tmp_path / "v" / "a.gif", 3)
    (tmp_path / "v" / "a.gif").rename(tmp_path / "v" / "a.npy")
    build(str(tmp_path / "v"), tmp_path / "set", frames=3)
    assert np.array_equal(by_key(tmp_path / "set")["a-c00000"], np.stack(pictures))


def test_a_png_shows_no_picture_for_viewers_without_animations(tmp_path: Path) -> None:
    pictures = animation(tmp_path / "v" / "a.png", 5, default_image=True)
    build(str(tmp_path / "v"), tmp_path / "set", frames=4)
    assert np.array_equal(by_key(tmp_path / "set")["a-c00000"], np.stack(pictures[1:]))


def test_transparency_goes_over_white_in_every_frame(tmp_path: Path) -> None:
    frames = []
    for number in range(3):
        frame = Image.new("RGBA", (6, 6), (0, 0, 0, 0))
        frame.putpixel((number, 2), (200, 0, 0, 255))
        frames.append(frame)
    (tmp_path / "v").mkdir()
    frames[0].save(
        tmp_path / "v" / "a.gif", save_all=True, append_images=frames[1:], disposal=2, duration=40
    )
    build(str(tmp_path / "v"), tmp_path / "set", frames=3)
    clip_thwc = by_key(tmp_path / "set")["a-c00000"]
    expected = np.full((3, 6, 6, 3), 255, np.uint8)
    expected[np.arange(3), 2, np.arange(3)] = (200, 0, 0)
    assert np.array_equal(clip_thwc, expected)


def test_frames_are_turned_as_the_animation_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = animation(tmp_path / "v" / "a.webp", 3, exif=exif)
    build(str(tmp_path / "v"), tmp_path / "set", frames=3)
    assert open_shard_set(str(tmp_path / "set")).spec.shape == (3, 12, 9, 3)
    turned = [np.rot90(np.asarray(picture), -1) for picture in pictures]
    assert np.array_equal(by_key(tmp_path / "set")["a-c00000"], np.stack(turned))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_animations_cut_short_are_listed(tmp_path: Path, kind: str) -> None:
    animation(tmp_path / "v" / f"good.{kind}", 6)
    whole = (tmp_path / "v" / f"good.{kind}").read_bytes()
    for share in (20, 50, 80, 95):
        cut = whole[: len(whole) * share // 100]
        (tmp_path / "v" / f"cut{share}.{kind}").write_bytes(cut)
    Image.new("RGB", (4, 4)).save(tmp_path / "v" / f"still.{kind}")
    build(str(tmp_path / "v"), tmp_path / "set", frames=2)
    reasons = rejected(tmp_path / "set")
    assert len(by_key(tmp_path / "set")) == 3
    assert reasons.pop(f"still.{kind}") == "it has 1 frame; a clip takes 2"
    assert len(reasons) == 4
    assert all("it cannot be decoded" in reason for reason in reasons.values()), reasons


def test_a_folder_of_still_pictures_gives_no_clips(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "v" / "a.png")
    with pytest.raises(DataError, match=r"as a video(.|\n)*it has 1 frame"):
        build(str(tmp_path / "v"), tmp_path / "set", frames=2)
