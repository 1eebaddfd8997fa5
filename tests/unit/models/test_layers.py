from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.models.layers import ClassEmbedding, pyramid_for

BASES = st.integers(4, 7)
DOUBLINGS = st.integers(1, 6)


def spec(height: int, width: int) -> ImageSpec:
    return ImageSpec(height=height, width=width, mode="L")


@given(BASES, BASES, DOUBLINGS)
def test_every_base_times_a_power_of_two_has_its_pyramid(rows: int, columns: int, doublings: int):
    pyramid = pyramid_for(spec(rows << doublings, columns << doublings))
    assert (pyramid.base_height, pyramid.base_width) == (rows, columns)
    assert pyramid.doublings == doublings


@given(st.integers(1, 600))
def test_any_other_size_is_refused_with_the_nearest_that_works(side: int):
    possible = {base << k for base in range(4, 8) for k in range(1, 10)}
    if side in possible:
        pyramid_for(spec(side, side))
        return
    with pytest.raises(UsageError) as caught:
        pyramid_for(spec(side, side))
    assert f"{side}x{side}" in str(caught.value)
    advised = int(str(caught.value.remedy).split()[-1])
    assert advised in possible
    assert abs(advised - side) == min(abs(size - side) for size in possible)


def test_sides_with_different_powers_are_refused():
    with pytest.raises(UsageError, match="64x28"):
        pyramid_for(spec(28, 64))


@given(st.integers(4, 256), DOUBLINGS)
def test_widths_halve_down_to_a_quarter(width: int, doublings: int):
    widths = pyramid_for(spec(4 << doublings, 4 << doublings)).widths(width)
    assert len(widths) == doublings
    assert widths[0] == width
    assert all(fine <= coarse for coarse, fine in pairwise(widths))
    assert widths[-1] >= width // 4


def test_an_unknown_label_is_the_zero_vector():
    embedding = ClassEmbedding(3, 5)
    vectors = embedding(torch.tensor([-1, 2]))
    assert torch.equal(vectors[0], torch.zeros(5))
    assert torch.equal(vectors[1], embedding.table.weight[2])


def test_a_conditional_network_asks_for_labels():
    with pytest.raises(ValueError, match="labels"):
        ClassEmbedding(3, 5)(None)
