"""What happens to a picture follows from (seed, position, sample) and from nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from distgen.core.config import parse
from distgen.core.errors import UsageError
from distgen.data.config import AugmentConfig, DataConfig
from distgen.data.streaming.augment import augment, draw

EVERYTHING = AugmentConfig(
    flip=0.5,
    shift=3,
    rotate=20,
    crop=0.3,
    brightness=0.2,
    contrast=0.3,
    saturation=0.4,
    cutout=0.3,
)
N = 12


def pictures(channels: int = 3, height: int = 10, width: int = 14) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    shape = (N, channels, height, width)
    return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)


def scaled(images: torch.Tensor) -> torch.Tensor:
    return images.float().div(127.5).sub(1.0)


def changed(images: torch.Tensor, position: int = 0, seed: int = 0, **config: Any) -> torch.Tensor:
    places = np.arange(len(images))
    return augment(images, places, np.full(len(images), position), AugmentConfig(**config), seed)


def test_a_picture_changes_alike_in_any_batch_and_on_any_number_of_ranks() -> None:
    images, samples = scaled(pictures()), np.arange(N) * 7919
    positions = np.arange(N) // 5
    whole = augment(images, samples, positions, EVERYTHING, seed=3)
    assert not torch.equal(whole, images)
    for size in (1, 2, 3, 5, N):
        for rank in range(size):
            mine = slice(rank, None, size)
            part = augment(images[mine], samples[mine], positions[mine], EVERYTHING, seed=3)
            assert torch.equal(part, whole[mine])


@pytest.mark.parametrize("exact", [False, True])
def test_the_same_happens_to_all_frames_of_a_clip(exact: bool) -> None:
    images = pictures() if exact else scaled(pictures())
    samples, epochs = np.arange(N) * 7919, np.arange(N) // 5
    clips = torch.stack([images, images.flip(0), images], dim=1)
    before = clips.clone()
    changed = augment(clips, samples, epochs, EVERYTHING, seed=3)
    assert changed.shape == clips.shape
    assert changed.dtype == clips.dtype
    alone = augment(images, samples, epochs, EVERYTHING, seed=3)
    assert torch.equal(changed[:, 0], alone)
    assert torch.equal(changed[:, 2], alone)
    assert torch.equal(changed[:, 1], augment(images.flip(0), samples, epochs, EVERYTHING, seed=3))
    assert torch.equal(clips, before)


def test_clips_of_a_stream_are_changed_as_they_come() -> None:
    clips_nthwc = torch.randint(0, 256, (4, 3, 8, 6, 3), dtype=torch.uint8)
    places = np.arange(4)
    seen = augment(clips_nthwc.movedim(-1, -3), places, places, EVERYTHING, seed=1)
    plain = clips_nthwc.movedim(-1, -3).contiguous()
    assert torch.equal(seen, augment(plain, places, places, EVERYTHING, seed=1))
    off = augment(plain, places, places, AugmentConfig(), seed=1)
    assert torch.equal(off, plain)


def test_epochs_samples_and_seeds_change_pictures_differently() -> None:
    images = scaled(pictures()[:1].expand(N, -1, -1, -1))
    same = np.zeros(N, np.int64)
    counted = np.arange(N)
    results = [
        augment(images, samples, positions, EVERYTHING, seed)
        for samples, positions, seed in ((counted, same, 0), (same, counted, 0), (counted, same, 1))
    ]
    every = torch.cat(results).flatten(1)
    # Sample 0 at position 0 is in the first two results.
    assert len(torch.unique(every, dim=0)) == 3 * N - 1


def test_the_numbers_of_a_sample_are_even_and_independent() -> None:
    positions, samples = np.divmod(np.arange(20_000), 5_000)
    drawn = np.stack(list(draw(7, positions, samples).values()))
    for numbers in drawn:
        assert stats.kstest(numbers, "uniform").pvalue > 1e-4
    assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.04
    assert np.abs(np.corrcoef(drawn[:, :-1], drawn[:, 1:])[:12, 12:]).max() < 0.04
    # What a sample gets is part of what a run means.
    assert [round(float(numbers[1]), 6) for numbers in drawn[:3]] == GOLDEN


GOLDEN = [0.348604, 0.233477, 0.777993]


def test_flips_and_shifts_move_pixels_and_change_none() -> None:
    images = pictures()
    drawn = draw(0, np.zeros(N), np.arange(N))
    flipped = changed(images, flip=0.5)
    for place in range(N):
        mirrored = drawn["flip"][place] < 0.5
        assert torch.equal(flipped[place], images[place].flip(2) if mirrored else images[place])
    assert 0 < sum(drawn["flip"] < 0.5) < N
    assert torch.equal(changed(images, flip=1.0), images.flip(3))
    assert torch.equal(changed(scaled(images), flip=1.0), scaled(images).flip(3))
    for padding, mode in (("reflect", "reflect"), ("edge", "replicate"), ("zero", "constant")):
        grey = images.float() - 128
        padded = torch.nn.functional.pad(grey, (3,) * 4, mode=mode) + 128
        moved = changed(images, shift=3, padding=padding)
        for place in range(N):
            top = 3 - (int(drawn["shift-y"][place] * 7) - 3)
            left = 3 - (int(drawn["shift-x"][place] * 7) - 3)
            expected = padded[place, :, top : top + 10, left : left + 14]
            assert torch.equal(moved[place].float(), expected)
        assert torch.equal(changed(images, shift=3, padding=padding, flip=1.0), moved.flip(3))
    far = changed(images, shift=100)
    assert set(far.unique().tolist()) <= set(images.unique().tolist())


def test_a_quarter_turn_and_a_crop_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    from distgen.data.streaming import augment as module

    def draws(value: float) -> None:
        fixed = {name: np.full(1, value) for name in draw(0, np.zeros(1), np.zeros(1))}
        monkeypatch.setattr(module, "draw", lambda *_: fixed)

    ramp = torch.linspace(-1, 1, 9).repeat(9, 1)[None, None]
    draws(1.0)  # the limit: 90 degrees
    turned = changed(ramp, rotate=90)
    assert torch.allclose(turned.squeeze(), ramp.squeeze().rot90(), atol=1e-5)
    draws(0.5)  # half of the limit, in the middle
    cropped = changed(ramp, crop=0.5).squeeze()
    assert torch.allclose(cropped, 0.75 * ramp.squeeze(), atol=1e-5)
    # Neither changes anything where its drawn amount is nothing.
    assert torch.allclose(changed(ramp, rotate=90), ramp, atol=1e-6)
    # A circle stays one in a picture that is not square.
    y, x = torch.meshgrid(torch.arange(20.0) - 9.5, torch.arange(40.0) - 19.5, indexing="ij")
    circle = (2 * torch.exp(-(x**2 + y**2) / 16) - 1)[None, None]
    draws(0.9)
    assert (changed(circle, rotate=40, padding="edge") - circle).abs().max() < 0.1


def test_colours_change_by_at_most_their_limits() -> None:
    grey = torch.zeros(N, 3, 4, 4)
    bright = changed(grey, brightness=0.2)
    assert 0.2 < bright.abs().max() <= 0.4
    assert torch.equal(changed(grey, contrast=0.5), grey)
    images = scaled(pictures()) / 4
    ratio = changed(images, contrast=0.5) / images
    assert ratio.nanquantile(0.001) >= 0.5
    assert ratio.nanquantile(0.999) <= 1.5
    colourless = images[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(changed(colourless, saturation=1.0), colourless, atol=1e-6)
    assert not torch.allclose(changed(images, saturation=0.5), images, atol=1e-2)
    one = scaled(pictures(channels=1))
    assert torch.equal(changed(one, saturation=0.5), one)
    assert changed(scaled(pictures()), brightness=1.0, contrast=1.0).abs().max() <= 1.0


def test_cutout_covers_one_square_with_grey() -> None:
    images = pictures(height=20, width=20).clamp(max=100)
    cut = changed(images, cutout=0.5)
    covered = (cut == 128).all(1)
    assert torch.equal(cut[:, 0][~covered], images[:, 0][~covered])
    for mask in covered:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns
        assert 5 <= rows <= 10
        assert 5 <= columns <= 10


def test_bytes_and_numbers_in_any_layout_change_alike() -> None:
    images = pictures()
    places, positions = np.arange(N), np.zeros(N)
    numbers = augment(scaled(images), places, positions, EVERYTHING, 0)
    levels = augment(images, places, positions, EVERYTHING, 0)
    assert levels.dtype == torch.uint8
    assert (scaled(levels) - numbers).abs().max() < 1 / 127
    last = scaled(images).contiguous(memory_format=torch.channels_last)
    kept = augment(last, places, positions, EVERYTHING, 0)
    assert kept.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(kept, numbers, atol=1e-6)


def test_nothing_happens_unless_it_is_asked_for() -> None:
    images = pictures()
    assert changed(images) is images
    config = parse(DataConfig, {"shards": "x"}, "job.yaml")
    assert not config.augment.enabled
    assert parse(DataConfig, {"shards": "x", "augment": {"flip": 0.5}}, "j").augment.enabled
    with pytest.raises(UsageError, match=r"augment\.flip"):
        parse(DataConfig, {"shards": "x", "augment": {"flip": 2}}, "job.yaml")


@pytest.mark.gpu
def test_a_device_changes_pictures_as_the_cpu_does() -> None:
    images, places = scaled(pictures()), np.arange(N)
    here = augment(images, places, np.zeros(N), EVERYTHING, 0)
    there = augment(images.cuda(), places, np.zeros(N), EVERYTHING, 0)
    assert torch.allclose(there.cpu(), here, atol=1e-3)
