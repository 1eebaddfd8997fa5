"""Weights in safetensors: written from a state, and read only when they fit the model exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from distgen.core.errors import DataError, DistgenError
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location
from distgen.models import FAMILIES, ModelConfig, sketch_networks
from distgen.registry.layout import damaged

MAX_HEADER_BYTES = 16 << 20
_LENGTH_BYTES = 8
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class TensorSpec(NamedTuple):
    """What a tensor is, without its values."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}"

    @property
    def bytes(self) -> int:
        """Size of its values."""
        return self.dtype.itemsize * int(torch.Size(self.shape).numel())


def skeleton(model: ModelConfig, image: ImageSpec) -> nn.Module:
    """The served network with names, shapes and types, and no memory behind them.

    Raises:
        DataError: The family cannot make such pictures.
    """
    try:
        networks = sketch_networks(model, image)
    except DistgenError as error:
        raise DataError(
            "The bundle's config describes a model that cannot be built.",
            cause=error.what,
            remedy="copy the bundle again from where it came from",
        ) from error
    return networks[FAMILIES[model.family].served]


def expected_tensors(network: nn.Module) -> dict[str, TensorSpec]:
    """Name, type and shape of every tensor of a network's state."""
    return specs_of(network.state_dict())


def specs_of(state: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Name, type and shape of every tensor of a state."""
    return {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in state.items()}


def serialise(state: Mapping[str, Tensor]) -> bytes:
    """A state as the bytes of a safetensors file; equal states give equal bytes."""
    # Clones: tensors that share memory cannot be stored, and views would store too much.
    tensors = {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for name, tensor in sorted(state.items())
    }
    return safetensors.torch.save(tensors)


def check_header(place: Location, expected: Mapping[str, TensorSpec]) -> None:
    """Hold the file's header, and its size, against the tensors that the model has.

    Reads no more than the header, so that a file that lies costs no memory.

    Raises:
        DataError: A tensor is missing, unknown, or of another shape or type, or the file's length
            is not that of its tensors.
    """
    header, start = _read_header(place)
    _check_names(place, set(header), set(expected))
    end = 0
    for name, found in sorted(header.items(), key=lambda item: item[1][1]):
        spec, (begin, stop) = found
        if spec != expected[name]:
            raise damaged(place, f"tensor {name!r} is {spec}, the model's is {expected[name]}")
        if begin != end or stop - begin != spec.bytes:
            raise damaged(place, f"tensor {name!r} does not lie where its size says")
        end = stop
    if place.size() != start + end:
        raise damaged(place, f"it has {place.size():,} bytes, its tensors need {start + end:,}")


def load_into(network: nn.Module, data: bytes, place: Location) -> nn.Module:
    """Give a skeleton its weights.

    Args:
        network: From `skeleton`.
        data: The whole file, checked against the manifest and by `check_header`.
        place: Where the file lies, for errors.

    Raises:
        DataError: The bytes do not load all the same.
    """
    try:
        network.load_state_dict(safetensors.torch.load(data), strict=True, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise damaged(place, str(error)) from error
    left = [name for name, tensor in network.named_buffers() if tensor.is_meta]
    assert not left, f"buffers that are not part of the state cannot be served: {left}"  # noqa: S101
    return network.eval().requires_grad_(False)


def _read_header(
    place: Location,
) -> tuple[dict[str, tuple[TensorSpec, tuple[int, int]]], int]:
    """Each tensor's spec and byte range, and where the values start."""
    with place.open_input() as stream:
        prefix = bytes(stream.read(_LENGTH_BYTES))
        length = int.from_bytes(prefix, "little")
        if len(prefix) < _LENGTH_BYTES or not 2 <= length <= MAX_HEADER_BYTES:
            raise damaged(place, "it does not begin like a safetensors file")
        text = bytes(stream.read(length))
    try:
        raw = json.loads(text)
        header = {name: _entry(item) for name, item in raw.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(place, f"its header cannot be read: {error!r}") from error
    return header, _LENGTH_BYTES + length


def _entry(item: Any) -> tuple[TensorSpec, tuple[int, int]]:
    begin, stop = item["data_offsets"]
    shape = tuple(item["shape"])
    numbers = (begin, stop, *shape)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("an offset or a length is not a natural number")
    return TensorSpec(_DTYPES[item["dtype"]], shape), (begin, stop)


def _check_names(place: Location, found: set[str], expected: set[str]) -> None:
    for title, names in (("lacks", expected - found), ("has unknown", found - expected)):
        if names:
            listed = ", ".join(sorted(names)[:4]) + (", ..." if len(names) > 4 else "")
            raise damaged(place, f"it {title} {len(names)} tensors: {listed}")
