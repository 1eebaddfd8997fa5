"""Random numbers are functions of their key alone."""

from __future__ import annotations

import numpy as np
import pytest

from distgen.core.seeding import Stream


def test_a_stream_that_is_begun_anew_gives_what_a_new_one_would() -> None:
    stream = Stream()
    for key in (0, 5, 2**63 - 1, 2**64 - 1, 5):
        new = np.random.Generator(np.random.Philox(key=key))
        stream.restart(key)
        # Three of 32 bits leave half a word behind, which the next key must not see.
        assert (
            stream.generator.integers(9, size=3, dtype=np.uint32).tolist()
            == new.integers(9, size=3, dtype=np.uint32).tolist()
        )
        assert stream.generator.standard_normal(7).tolist() == new.standard_normal(7).tolist()


@pytest.mark.parametrize("key", [-1, 2**64])
def test_a_key_has_64_bits(key: int) -> None:
    with pytest.raises(OverflowError):
        Stream().restart(key)
