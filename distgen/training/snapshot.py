"""What a checkpoint will hold, copied to host memory in a moment, so that training can go on."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distgen.core.part import Part

_TENSOR = "$tensor"
_ITEMS = "$items"
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8

Chunks = list[bytes | memoryview]


@dataclass
class Frozen:
    """One part as it was: its tensors in host memory, and all else as JSON."""

    tensors: dict[str, Tensor]
    skeleton: bytes
    lent: bool = False
    """Whether the tensors are still the part's own, and must not change."""


@dataclass(frozen=True)
class Snapshot:
    """All parts as they were at one point of the clock; later steps do not change them."""

    images_seen: int
    parts: dict[str, Frozen]
    copied: torch.cuda.Event | None
    """Where parts were on a CUDA device: comes when their copies are complete."""
    healthy: bool = True
    """Whether a run that goes wrong may return here."""
    rollbacks: int = 0
    """How often the run had been rolled back."""

    def copy_lent(self) -> None:
        """Copy what is still lent, in any thread."""
        for part in self.parts.values():
            if part.lent:
                part.tensors = {path: _to_host(tensor) for path, tensor in part.tensors.items()}
                part.lent = False


def take(
    images_seen: int,
    parts: Mapping[str, Part],
    *,
    healthy: bool = True,
    rollbacks: int = 0,
    lent: Collection[str] = (),
) -> Snapshot:
    """Copy what the parts hold now.

    On a CUDA device the copies are queued behind the step, and nothing waits for them here.

    Args:
        images_seen: The clock.
        parts: What to copy.
        healthy: Whether a run that goes wrong may return here.
        rollbacks: How often the run had been rolled back.
        lent: Names of parts whose tensors in host memory stay as they are until `copy_lent`.
    """
    frozen: dict[str, Frozen] = {}
    on_cuda = False
    for name, part in parts.items():
        tensors: dict[str, Tensor] = {}
        skeleton = json.dumps(_take_tensors(part.state_dict(), "", tensors)).encode()
        here = any(tensor.is_cuda for tensor in tensors.values())
        on_cuda |= here
        frozen[name] = Frozen(tensors, skeleton, lent=True)
        if here or name not in lent:
            Snapshot(images_seen, {name: frozen[name]}, None).copy_lent()
    copied = None
    if on_cuda:
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
    return Snapshot(images_seen, frozen, copied, healthy, rollbacks)


def as_files(snapshot: Snapshot) -> Iterator[tuple[str, Chunks]]:
    """Names and contents of the files that hold a snapshot, two for each part."""
    if snapshot.copied is not None:
        snapshot.copied.synchronize()
    for name, part in snapshot.parts.items():
        yield f"{name}.safetensors", as_safetensors(part.tensors)
        yield f"{name}.json", [part.skeleton]


def as_safetensors(tensors: Mapping[str, Tensor]) -> Chunks:
    """A safetensors file of contiguous host tensors, in chunks that are views of their memory.

    The package's own writer copies all of them twice while it keeps every other thread waiting.
    """
    header: dict[str, Any] = {}
    chunks: Chunks = []
    end = 0
    # Wide types first, by the format's own rule: so that every tensor lies aligned.
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        if tensor.nbytes:
            # Older versions of numpy do not say in their types that arrays are buffers.
            octets: Any = tensor.reshape(-1).view(torch.uint8).numpy()
            chunks.append(memoryview(octets))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return [len(text).to_bytes(8, "little") + text, *chunks]


def put_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What a part's state was, from its JSON and its tensors."""
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: put_tensors(item, tensors) for key, item in value[_ITEMS]}
    if isinstance(value, list):
        return [put_tensors(item, tensors) for item in value]
    return value


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors moved into `tensors` under their paths."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        items = [[k, _take_tensors(v, f"{path}/{k}" if path else str(k), tensors)]
                 for k, v in value.items()]  # fmt: skip
        return {_ITEMS: items}  # a list of pairs, for keys are not always strings
    if isinstance(value, list | tuple):
        return [_take_tensors(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _to_host(tensor: Tensor) -> Tensor:
    """A contiguous copy in host memory; of a CUDA tensor one that may not be complete yet."""
    if not tensor.is_cuda:
        return tensor.clone(memory_format=torch.contiguous_format)
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor.contiguous(), non_blocking=True)
