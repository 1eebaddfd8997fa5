"""Weights are read only where they are those of the model, whatever their file claims."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen.core.storage import Location, locate
from distgen.registry import write_bundle
from distgen.registry.layout import WEIGHTS
from tests.unit.registry.small_bundles import GAN, SPEC, refused, reseal, state_of


def rewrite_weights(place: Location, change) -> None:
    """Change the tensors, and have the manifest vouch for the result."""
    state = safetensors.torch.load((place / WEIGHTS).read_bytes())
    change(state)
    (place / WEIGHTS).write_bytes(safetensors.torch.save(state))
    reseal(place)


@pytest.fixture(scope="module")
def written_once(tmp_path_factory) -> Location:
    place = locate(tmp_path_factory.mktemp("bundle"))
    write_bundle(
        place,
        model_config=GAN,
        spec=SPEC,
        state=state_of(GAN, SPEC),
        card=None,
        samples_png=None,
        name="m",
        images_seen=1,
    )
    return place


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_of_the_weights_gets_through(data, written_once):
    file = Path(written_once.path, WEIGHTS)
    whole = file.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    broken = bytearray(whole)
    broken[bit // 8] ^= 1 << bit % 8
    try:
        file.write_bytes(broken)
        refused(written_once, WEIGHTS)
    finally:
        file.write_bytes(whole)


def test_an_extra_tensor_is_named(make_bundle):
    place = make_bundle("bundle")
    rewrite_weights(place, lambda state: state.update(backdoor=torch.zeros(3)))
    refused(place, WEIGHTS, "backdoor")


def test_a_missing_tensor_is_named(make_bundle):
    place = make_bundle("bundle")
    name = sorted(state_of(GAN, SPEC))[0]
    rewrite_weights(place, lambda state: state.pop(name))
    refused(place, WEIGHTS, name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_tensor_of_another_type_is_named(dtype, make_bundle):
    place = make_bundle("bundle")
    name = sorted(state_of(GAN, SPEC))[0]
    rewrite_weights(place, lambda state: state.update({name: state[name].to(dtype)}))
    refused(place, WEIGHTS, name, str(dtype).removeprefix("torch."), "float32")


def test_a_tensor_of_another_shape_is_named(make_bundle):
    place = make_bundle("bundle")
    name = sorted(state_of(GAN, SPEC))[0]
    rewrite_weights(place, lambda state: state.update({name: state[name][:-1].contiguous()}))
    refused(place, WEIGHTS, name)


def header_says(place: Location, change) -> None:
    """Rewrite the header of the weights without their values; the manifest vouches for it."""
    data = (place / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    (place / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    reseal(place)


def first_tensor(header: dict) -> dict:
    return header[sorted(name for name in header if name != "__metadata__")[0]]


@pytest.mark.parametrize(
    "change",
    [
        lambda h: first_tensor(h).update(data_offsets=[0, 10**12]),
        lambda h: first_tensor(h).update(data_offsets=[8, 12]),
        lambda h: first_tensor(h).update(data_offsets=[-4, 0]),
        lambda h: first_tensor(h).update(data_offsets="all"),
        lambda h: first_tensor(h).update(shape=[10**9, 10**9]),
        lambda h: first_tensor(h).update(shape=[-1]),
        lambda h: first_tensor(h).update(shape=[True]),
        lambda h: first_tensor(h).update(dtype="OBJECT"),
        lambda h: first_tensor(h).clear(),
        lambda h: h.update(more=[]),
    ],
)
def test_a_lying_header_is_refused_before_anything_is_read(change, make_bundle):
    place = make_bundle("bundle")
    header_says(place, change)
    refused(place, WEIGHTS)


def test_a_huge_header_is_not_read(make_bundle):
    place = make_bundle("bundle")
    data = (place / WEIGHTS).read_bytes()
    (place / WEIGHTS).write_bytes((2**62).to_bytes(8, "little") + data[8:])
    reseal(place)
    refused(place, WEIGHTS, "does not begin like")


def test_bytes_behind_the_last_tensor_are_refused(make_bundle):
    place = make_bundle("bundle")
    (place / WEIGHTS).write_bytes((place / WEIGHTS).read_bytes() + b"more")
    reseal(place)
    refused(place, WEIGHTS, "its tensors need")
