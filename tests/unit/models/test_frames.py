from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen.core.spec import ImageSpec
from distgen.models.frames import FrameDecoder, FrameEncoder, Shifts
from distgen.models.layers import pyramid_for

REACH = 3
MOVES = st.integers(-REACH, REACH)


def certain(move: int) -> torch.Tensor:
    return torch.eye(2 * REACH + 1)[move + REACH].view(1, 1, -1)


def moved_by_numpy(picture: np.ndarray, down: int, right: int) -> np.ndarray:
    padded = np.pad(picture, REACH, mode="edge")
    height, width = picture.shape
    top, left = REACH - down, REACH - right
    return padded[top : top + height, left : left + width]


@settings(deadline=None)
@given(MOVES, MOVES)
def test_a_certain_move_is_that_of_whole_pixels_with_the_edge_repeated(down: int, right: int):
    picture = torch.rand(1, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    found = Shifts(REACH, picture).moved(picture, certain(down), certain(right))
    expected = moved_by_numpy(picture[0, 0].numpy(), down, right)
    np.testing.assert_allclose(found[0, 0, 0].numpy(), expected, rtol=1e-6)


def test_an_uncertain_move_is_the_mean_of_the_moves():
    pictures = torch.rand(2, 3, 8, 8)
    shifts = Shifts(REACH, pictures)
    one, other = certain(1).expand(2, -1, -1), certain(-2).expand(2, -1, -1)
    half = shifts.moved(pictures, 0.25 * one + 0.75 * other, one)
    parts = shifts.moved(pictures, one, one), shifts.moved(pictures, other, one)
    torch.testing.assert_close(half, 0.25 * parts[0] + 0.75 * parts[1])


@torch.no_grad()
def test_a_fresh_decoder_moves_nothing_far():
    torch.manual_seed(0)
    pyramid = pyramid_for(ImageSpec(height=16, width=16, mode="L"))
    encoder = FrameEncoder(1, pyramid, 16, 8)
    decoder = FrameDecoder(8, 1, pyramid, 16, copies=3, reach=REACH)
    last = torch.rand(4, 1, 16, 16) * 2 - 1
    copies = decoder._copies(torch.zeros(4, 8), last, Shifts(REACH, last))
    assert (copies - last.unsqueeze(1)).abs().mean() < 0.15
    frame = decoder(torch.randn(4, 8), encoder(last, last), last, Shifts(REACH, last))
    assert frame.shape == last.shape
    assert frame.abs().max() <= 1.0


@torch.no_grad()
def test_two_frames_tell_a_motion_from_its_reverse():
    torch.manual_seed(0)
    pyramid = pyramid_for(ImageSpec(height=16, width=16, mode="L"))
    encoder = FrameEncoder(1, pyramid, 16, 8)
    first, second = torch.rand(2, 1, 1, 16, 16).unbind(0)
    there, back = encoder(first, second), encoder(second, first)
    assert not torch.allclose(there.vector_nf, back.vector_nf, atol=1e-3)
    assert [each.shape[-1] for each in there.maps] == [4, 8]
