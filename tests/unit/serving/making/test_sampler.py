"""A picture is a function of (weights, seed, class, controls), and of nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.serving.making.buckets import BUCKETS, REFERENCE_BUCKET, split
from distgen.serving.making.sampler import (
    MAX_SEED,
    Picture,
    Sampler,
    latents_for,
    picture_seed,
    random_label,
)


@pytest.mark.parametrize("name", ["conditional-gan", "rgb-gan", "vae", "lstm-vae"])
def test_same_picture_same_bytes_whatever_shares_its_batch(make_network, name):
    network, spec = make_network(name)
    sampler = Sampler(network, spec)
    assert REFERENCE_BUCKET in sampler.buckets
    dice = random.Random(7)
    pictures = [
        Picture(
            seed=dice.randrange(MAX_SEED),
            label=dice.randrange(network.num_classes) if network.num_classes else None,
            truncation=dice.choice([None, 0.5, 2.0]),
        )
        for _ in range(150)
    ]
    together = sampler.sample(pictures)
    assert together.shape == (150, spec.height, spec.width, spec.channels)
    for _ in range(12):
        chosen = dice.sample(range(150), dice.choice([1, 2, 3, 5, 9, 16, 17, 40, 90]))
        images = sampler.sample([pictures[i] for i in chosen])
        np.testing.assert_array_equal(images, together[chosen])


def test_every_bucket_in_use_gives_the_same_bits_before_rounding(make_network):
    network, spec = make_network("conditional-gan")
    sampler = Sampler(network, spec)
    pictures = [Picture(seed=1000 + i, label=i % 4) for i in range(70)]
    reference = sampler._run(pictures, (REFERENCE_BUCKET,))
    for bucket in sampler.buckets:
        assert torch.equal(sampler._run(pictures, (bucket,)), reference)


def test_a_gpu_that_is_not_there_is_refused_in_words(make_network, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="a GPU here that torch cannot use"):
        Sampler(*make_network("vae"), device="cuda")


class _MindsItsBatch(nn.Module):
    """A network whose bits depend on the batch's size: what kernels do, made visible."""

    latent_dim, num_classes = 4, 0

    def __init__(self, sizes: tuple[int, ...], by_position: bool = False) -> None:
        super().__init__()
        self.sizes = sizes
        self.by_position = by_position

    def sample(self, latents_nd: Tensor, labels_n: Tensor | None = None) -> Tensor:
        images = latents_nd.tanh()[:, None, None, :].expand(-1, 1, 4, 4).clone()
        if len(images) in self.sizes:
            images += 1e-7
        if self.by_position:
            images += torch.arange(len(images)).view(-1, 1, 1, 1) * 1e-6
        return images


SQUARE = ImageSpec(height=4, width=4, mode="L")


def test_a_bucket_that_disagrees_by_one_ulp_is_not_used():
    assert Sampler(_MindsItsBatch(()), SQUARE).buckets == BUCKETS
    assert Sampler(_MindsItsBatch((1, 2, 32)), SQUARE).buckets == (4, 8, 16, 64)


def test_a_network_that_minds_positions_runs_one_picture_at_a_time():
    sampler = Sampler(_MindsItsBatch((), by_position=True), SQUARE)
    assert sampler.buckets == (1,)
    pictures = [Picture(seed=i) for i in range(5)]
    alone = np.concatenate([sampler.sample([picture]) for picture in pictures])
    np.testing.assert_array_equal(sampler.sample(pictures), alone)


def test_latents_of_a_seed_are_these_in_every_process_and_every_release():
    expected = [
        [-2.0945718, 0.35150102, -0.77076197, -0.018693233],
        [0.117784746, -0.074394524, 0.15837207, 0.23590231],
    ]
    latents_nd = latents_for([Picture(5), Picture(6, truncation=0.7)], 4)
    np.testing.assert_allclose(latents_nd, expected, rtol=1e-6)


def test_latents_are_standard_normal_and_independent_between_seeds():
    latents_nd = latents_for([Picture(seed) for seed in range(4000)], 8)
    assert abs(latents_nd.mean()) < 0.02
    assert abs(latents_nd.std() - 1) < 0.02
    correlations = np.corrcoef(latents_nd.T) - np.eye(8)
    assert np.abs(correlations).max() < 0.08


@given(seed=st.integers(0, MAX_SEED), truncation=st.floats(0.05, 10))
def test_truncated_latents_stay_inside_and_keep_their_order(seed, truncation):
    plain = latents_for([Picture(seed)], 16)[0]
    cut = latents_for([Picture(seed, truncation=truncation)], 16)[0]
    assert np.abs(cut).max() <= truncation * (1 + 1e-6)
    assert (np.diff(cut[np.argsort(plain)]) >= 0).all()


@given(seed=st.integers(0, MAX_SEED), index=st.integers(1, 300))
def test_picture_seeds_can_be_sent_again_and_survive_json_readers(seed, index):
    assert picture_seed(seed, 0) == seed
    assert 0 <= picture_seed(seed, index) < 2**53
    assert picture_seed(seed, index) != picture_seed(seed, index + 1)


def test_random_labels_cover_all_classes_evenly():
    counts = np.bincount([random_label(seed, 10) for seed in range(5000)], minlength=10)
    assert counts.min() > 400


@settings(max_examples=200)
@given(
    count=st.integers(0, 300),
    buckets=st.sets(st.sampled_from(BUCKETS), min_size=1).map(lambda s: tuple(sorted(s))),
)
def test_split_covers_every_row_once_and_overfills_no_bucket(count, buckets):
    parts = list(split(count, buckets))
    rows = [row for part, _ in parts for row in range(count)[part]]
    assert rows == list(range(count))
    for part, bucket in parts:
        assert bucket in buckets
        assert 0 < part.stop - part.start <= bucket
