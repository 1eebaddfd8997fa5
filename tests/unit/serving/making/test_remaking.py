"""Variations and edits are functions of (weights, picture, seed), whatever shares their batch."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from distgen.core.spec import ImageSpec
from distgen.models import HVAEConfig, RVAEConfig, VAEConfig, build_networks
from distgen.serving.making.buckets import BUCKETS
from distgen.serving.making.remaking import Edit, Remaker, Variation, can_remake
from distgen.serving.making.sampler import Picture, Sampler

GREY = ImageSpec(height=28, width=28, mode="L")
RGB = ImageSpec(height=16, width=16, mode="RGB")
READERS = {
    "vae": (VAEConfig(latent_dim=8, width=16), GREY),
    "rgb-vae": (VAEConfig(latent_dim=8, width=16, likelihood="gaussian"), RGB),
    "hvae": (HVAEConfig(latent_dim=8, width=16, hidden=16), GREY),
    "bands": (RVAEConfig(latents="sequence", latent_dim=4, width=16, channels=16), GREY),
}


def remaker_of(name: str) -> tuple[Remaker, Sampler]:
    config, spec = READERS[name]
    torch.manual_seed(0)
    sampler = Sampler(build_networks(config, spec)["model"].eval(), spec)
    return Remaker(sampler), sampler


def some_pixels(spec: ImageSpec, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, spec.shape, dtype=np.uint8)


def some_hole(spec: ImageSpec) -> np.ndarray:
    hole = np.zeros((spec.height, spec.width), np.uint8)
    hole[4:11, 5:14] = 1
    return hole


@pytest.mark.parametrize("name", READERS)
def test_same_variation_and_edit_same_bytes_whatever_shares_their_batch(name):
    remaker, sampler = remaker_of(name)
    spec, dice = sampler.spec, random.Random(3)
    hole = some_hole(spec).tobytes()
    wanted = [
        Edit(dice.getrandbits(50), some_pixels(spec, row).tobytes(), hole)
        if row % 3 == 0
        else Variation(dice.getrandbits(50), some_pixels(spec, row).tobytes(), dice.random())
        for row in range(24)
    ]
    together = remaker.remake(wanted)
    for size in (1, 2, 5, 9, 20):
        chosen = dice.sample(range(24), size)
        for row, image in zip(chosen, remaker.remake([wanted[i] for i in chosen]), strict=True):
            np.testing.assert_array_equal(image, together[row])


def test_every_bucket_in_use_reads_the_same_bits():
    remaker, _ = remaker_of("vae")
    reference = remaker._probe(range(16), 16)
    assert set(remaker.buckets) <= set(BUCKETS)
    for bucket in remaker.buckets:
        assert torch.equal(remaker._probe(range(16), bucket), reference)


def test_known_pixels_come_back_exactly_and_the_hole_depends_on_the_seed_alone():
    remaker, sampler = remaker_of("rgb-vae")
    hole, pixels = some_hole(RGB), some_pixels(RGB, 1)
    other = np.where(hole[..., None] != 0, some_pixels(RGB, 2), pixels)
    first, again, beneath, second = remaker.remake(
        [
            Edit(5, pixels.tobytes(), hole.tobytes()),
            Edit(5, pixels.tobytes(), hole.tobytes()),
            Edit(5, other.tobytes(), hole.tobytes()),
            Edit(6, pixels.tobytes(), hole.tobytes()),
        ]
    )
    np.testing.assert_array_equal(first[hole == 0], pixels[hole == 0])
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, beneath)  # what lay in the hole had no effect
    assert (first[hole != 0] != second[hole != 0]).any()
    assert sampler.sample([Picture(5)]).shape == (1, 16, 16, 3)


def test_strength_leads_from_what_the_model_sees_to_the_picture_of_the_seed():
    remaker, sampler = remaker_of("vae")
    pixels = some_pixels(GREY, 1)

    def varied(strength: float, seed: int = 5) -> np.ndarray:
        return remaker.remake([Variation(seed, pixels.tobytes(), strength)])[0].astype(int)

    np.testing.assert_array_equal(varied(1.0), sampler.sample([Picture(5)])[0])
    np.testing.assert_array_equal(varied(0.0), varied(0.0, seed=6))
    image = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        seen = sampler.network.reconstruct(image)[0].permute(1, 2, 0).numpy() * 127.5 + 127.5
    assert np.abs(varied(0.0) - seen).max() <= 1
    distances = [np.abs(varied(s) - varied(0.0)).sum() for s in (0.1, 0.4, 0.9)]
    assert distances == sorted(distances)


def test_only_models_that_read_pictures_remake_them(make_network):
    assert can_remake(*make_network("vae"))
    gan, spec = make_network("rgb-gan")
    assert not can_remake(gan, spec)
    with pytest.raises(TypeError, match="cannot read pictures"):
        Remaker(Sampler(gan, spec))
