from __future__ import annotations

import numpy as np
import pytest

from distgen.serving.making.sampler import Picture, Sampler, picture_seed
from distgen.serving.making.sheets import PAINTED, SheetOptions, grid, walk


def test_a_grid_shows_what_an_endpoint_sends(make_network):
    network, spec = make_network("conditional-gan")
    options = SheetOptions(labels=(2, 0), rows=2, columns=3, seed=5)
    found = grid(network, options)
    wanted = [Picture(picture_seed(5, i % 3), label) for label in (2, 0) for i in range(3)]
    served = Sampler(network, spec).sample([wanted[i] for i in (0, 1, 2)] + wanted[:0])
    close = np.abs(found[:3].astype(int) - served.astype(int)).max()
    assert close <= 1, "kernels for another batch size add in another order"
    assert not np.array_equal(found[:3], found[3:]), "the second row is of another class"


@pytest.mark.parametrize("name", ["rgb-gan", "vae", "lstm-vae"])
def test_without_classes_every_picture_is_another(name: str, make_network):
    network, spec = make_network(name)
    found = grid(network, SheetOptions(rows=2, columns=4, seed=1))
    assert found.shape == (8, *spec.shape)
    assert len({picture.tobytes() for picture in found}) == 8


@pytest.mark.parametrize("name", ["conditional-gan", "rgb-gan", "vae", "lstm-vae"])
def test_a_walk_begins_and_ends_at_pictures_of_the_seed(name: str, make_network):
    network, spec = make_network(name)
    labels = (1,) if network.num_classes else ()
    found = walk(network, SheetOptions(labels=labels, rows=2, columns=5, seed=3)).astype(int)
    rows = found.reshape(2, 5, *spec.shape)
    ends = grid(network, SheetOptions(labels=labels, rows=1, columns=4, seed=3)).astype(int)
    for row in range(2):
        assert np.abs(rows[row, 0] - ends[2 * row]).max() <= 1
        assert np.abs(rows[row, -1] - ends[2 * row + 1]).max() <= 1
    assert not np.array_equal(rows[0, 0], rows[0, -1])


@pytest.mark.parametrize("kind", PAINTED)
def test_truncation_brings_pictures_closer_together(kind: str, make_network):
    network, _ = make_network("rgb-gan")
    spreads = [
        PAINTED[kind](network, SheetOptions(rows=4, columns=8, truncation=bound)).std(axis=0).mean()
        for bound in (0.05, 0.5, None)
    ]
    assert spreads == sorted(spreads)
    assert spreads[0] < 0.3 * spreads[2]
