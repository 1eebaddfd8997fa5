"""Grids that people look at."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from distgen.metrics.grid import grid_png, to_uint8_nhwc


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_picture_is_whole_and_in_its_place(channels):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), dtype=np.uint8)
    shown = pixels(grid_png(images, columns=3, scale=2)).reshape(-1, 3 * (12 + 2) + 2, channels)
    for number, image in enumerate(images):
        row, column = divmod(number, 3)
        top, left = 2 + row * 10, 2 + column * 14
        np.testing.assert_array_equal(shown[top : top + 8 : 2, left : left + 12 : 2], image)


def test_small_pictures_are_enlarged_and_large_ones_are_not():
    small, large = np.zeros((1, 8, 8, 1), np.uint8), np.zeros((1, 90, 80, 3), np.uint8)
    assert pixels(grid_png(small)).shape == (60, 60)
    assert pixels(grid_png(large)).shape == (94, 84, 3)


def test_a_grid_is_about_square_unless_told():
    images = np.zeros((10, 56, 56, 1), np.uint8)
    assert pixels(grid_png(images)).shape == (3 * 58 + 2, 4 * 58 + 2)
    assert pixels(grid_png(images, columns=10)).shape == (60, 582)
    assert pixels(grid_png(images, columns=99)).shape == (60, 582)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 8, 8, 1), np.uint8),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((2, 8, 8, 1), np.float32),
        np.zeros((8, 8, 1), np.uint8),
    ],
)
def test_what_is_no_list_of_pictures_is_refused(images):
    with pytest.raises(ValueError, match="picture"):
        grid_png(images)


def test_a_grid_beyond_all_reason_is_refused_before_it_is_made():
    with pytest.raises(ValueError, match="too large"):
        grid_png(np.zeros((2000, 64, 64, 1), np.uint8), scale=8)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_too_large_for_a_grid_are_shown_reduced_all_alike(monkeypatch, channels):
    monkeypatch.setattr("distgen.metrics.grid.MAX_PIXELS", 150_000)
    levels = np.arange(10, 70, 10, dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (6, 251, 130, channels))
    shown = pixels(grid_png(images, columns=3)).reshape(2 + 2 * 128, 2 + 3 * 67, channels)
    for number, level in enumerate(levels):
        row, column = divmod(number, 3)
        top, left = 2 + row * 128, 2 + column * 67
        assert (shown[top : top + 126, left : left + 65] == level).all()


def test_pictures_are_not_reduced_until_nothing_is_seen(monkeypatch):
    monkeypatch.setattr("distgen.metrics.grid.MAX_PIXELS", 150_000)
    with pytest.raises(ValueError, match="too large"):
        grid_png(np.zeros((4000, 100, 100, 1), np.uint8))


def test_bytes_survive_the_way_through_a_network():
    levels = torch.arange(256).float() / 127.5 - 1
    np.testing.assert_array_equal(to_uint8_nhwc(levels.view(1, 1, 16, 16)).ravel(), np.arange(256))


def test_what_is_no_number_becomes_grey_and_what_is_beyond_the_nearest_end():
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 3.0]).view(1, 1, 2, 2)
    assert to_uint8_nhwc(odd).ravel().tolist() == [128, 255, 0, 255]
