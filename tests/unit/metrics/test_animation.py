"""Sheets and animations of clips: what is put in can be seen, and comes back."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distgen.metrics.animation import (
    animate,
    frames_of,
    moving_clips,
    moving_grid,
    sheet_png,
)
from distgen.metrics.grid import to_uint8_nhwc


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_stored_clips_come_back_from_the_range_of_networks():
    clips = noise(2, 3, 4, 5, 3)
    images = torch.from_numpy(clips).movedim(-1, -3).float() / 127.5 - 1.0
    np.testing.assert_array_equal(to_uint8_nhwc(images), clips)


@settings(max_examples=25)
@given(
    frames=st.integers(1, 6),
    side=st.integers(1, 20),
    repeats=st.integers(1, 3),
    rate=st.sampled_from([1, 10, 12, 25, 50]),
)
@pytest.mark.parametrize("fmt", ["gif", "webp"])
def test_grey_frames_come_back_as_they_were(fmt, frames, side, repeats, rate):
    clip = noise(frames, side, side + 3, 1).repeat(repeats, axis=0)
    if fmt == "webp" and frames == 1:
        clip = clip[:1]  # a clip that stands still is a still picture there
    np.testing.assert_array_equal(frames_of(animate(clip, fmt, rate), rate), clip)


def test_colours_come_back_exactly_from_webp_and_about_from_gif():
    ramp = np.linspace(0, 255, 24).astype(np.uint8)
    clip = np.stack(
        [np.stack(np.broadcast_arrays(ramp[:, None], ramp, t * 40), -1) for t in (0, 5)]
    )
    np.testing.assert_array_equal(frames_of(animate(clip.astype(np.uint8), "webp")), clip)
    found = frames_of(animate(clip.astype(np.uint8), "gif")).astype(int)
    assert found.shape == clip.shape
    assert np.abs(found - clip).mean() < 12


def test_a_file_plays_for_ever_at_its_rate():
    with Image.open(io.BytesIO(animate(noise(3, 8, 8, 1), "gif", 20))) as image:
        assert (image.format, image.info["loop"], image.info["duration"]) == ("GIF", 0, 50)
    with Image.open(io.BytesIO(animate(noise(3, 8, 8, 1), "webp", 20))) as image:
        assert (image.format, image.info["loop"], image.n_frames) == ("WEBP", 0, 3)


def test_a_sheet_has_a_row_of_frames_for_each_clip():
    clips = noise(2, 3, 60, 70, 1)
    sheet = pixels(sheet_png(clips))
    assert sheet.shape == (2 * 62 + 2, 3 * 72 + 2)
    for row in range(2):
        for frame in range(3):
            top, left = 2 + 62 * row, 2 + 72 * frame
            found = sheet[top : top + 60, left : left + 70]
            np.testing.assert_array_equal(found, clips[row, frame, :, :, 0])


def test_given_frames_and_pairs_of_rows_stand_apart():
    clips = noise(4, 4, 60, 60, 3)
    sheet = pixels(sheet_png(clips, context=3, together=2))
    assert sheet.shape == (4 * 62 + 2 + 8, 4 * 62 + 2 + 8, 3)
    np.testing.assert_array_equal(sheet[2:62, 2 + 2 * 62 :][:, :60], clips[0, 2])
    np.testing.assert_array_equal(sheet[2:62, 2 + 3 * 62 + 8 :][:, :60], clips[0, 3])
    np.testing.assert_array_equal(sheet[2 + 2 * 62 + 8 :, 2:62][:60], clips[2, 0])
    assert (sheet[:, 186:196] == 255).all()


def test_a_long_clip_is_shown_by_its_ends_and_frames_between():
    clip = np.arange(101, dtype=np.uint8)[None, :, None, None, None].repeat(64, 2).repeat(64, 3)
    sheet = pixels(sheet_png(clip))
    shown = sheet[3, 3 :: 64 + 2]
    assert (shown[0], shown[-1], len(shown)) == (0, 100, 20)
    assert (np.diff(shown) >= 5).all()
    large = noise(1, 30, 300, 400, 1)
    assert pixels(sheet_png(large)).shape[1] == 6 * 402 + 2


def test_clips_of_a_grid_play_at_the_same_time():
    clips = noise(3, 4, 60, 60, 1)
    grid = moving_grid(clips, columns=2)
    assert grid.shape == (4, 2 * 62 + 2, 2 * 62 + 2, 1)
    for t in range(4):
        np.testing.assert_array_equal(grid[t, 2:62, 64:124], clips[1, t])
        np.testing.assert_array_equal(grid[t, 64:124, 2:62], clips[2, t])
    np.testing.assert_array_equal(frames_of(animate(grid)), grid)


def test_moving_grids_stay_small():
    assert moving_clips(20, 64, 64) == 16
    assert moving_clips(100, 512, 512) == 1
    assert len(animate(moving_grid(noise(16, 20, 64, 64, 1)))) < 3 << 20


@pytest.mark.parametrize(
    "clips",
    [
        np.zeros((2, 8, 8, 1), np.uint8),
        np.zeros((0, 2, 8, 8, 1), np.uint8),
        np.zeros((1, 0, 8, 8, 1), np.uint8),
        np.zeros((1, 2, 8, 8, 2), np.uint8),
        np.zeros((1, 2, 8, 8, 1), np.float32),
    ],
    ids=str,
)
def test_what_is_no_clip_is_refused(clips):
    for show in (sheet_png, moving_grid):
        with pytest.raises(ValueError, match="expected uint8 clips"):
            show(clips)
