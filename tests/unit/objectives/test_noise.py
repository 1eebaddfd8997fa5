from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen.core.world import World
from distgen.objectives import Noise

CPU = torch.device("cpu")


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 10**9), st.integers(1, 5), st.integers(1, 4))
def test_ranks_hold_the_rows_of_the_one_global_batch(seed: int, seen: int, ranks: int, each: int):
    total = ranks * each
    whole = Noise(seed, seen, World(), total, CPU)
    normals, uniforms = whole.normal("latents", 3), whole.uniform("pixels", 2, 2)
    assert normals.shape == (total, 3)
    assert uniforms.shape == (total, 2, 2)
    for rank in range(ranks):
        mine = Noise(seed, seen, World(rank, ranks), total, CPU)
        assert torch.equal(mine.normal("latents", 3), normals[rank::ranks])
        assert torch.equal(mine.uniform("pixels", 2, 2), uniforms[rank::ranks])


def test_seed_purpose_and_clock_each_give_other_numbers():
    base = Noise(0, 0, World(), 4, CPU)
    others = [
        base.normal("b", 8),
        base.uniform("a", 8),
        Noise(1, 0, World(), 4, CPU).normal("a", 8),
        Noise(0, 64, World(), 4, CPU).normal("a", 8),
    ]
    assert not any(torch.equal(base.normal("a", 8), other) for other in others)


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Noise(0, 0, World(), 4, CPU).normal("latents", 8)
    assert torch.equal(torch.rand(3), expected)


def test_numbers_are_distributed_as_named():
    noise = Noise(0, 0, World(), 1000, CPU)
    normals, uniforms = noise.normal("a", 50), noise.uniform("a", 50)
    assert abs(normals.mean()) < 0.02
    assert abs(normals.std() - 1.0) < 0.02
    assert uniforms.min() >= 0.0
    assert uniforms.max() < 1.0
    assert abs(uniforms.mean() - 0.5) < 0.01
