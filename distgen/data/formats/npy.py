"""Arrays of bytes in NumPy's file format (NEP 1), which is how clips are stored.

NumPy's own loader would evaluate the header as Python and can unpickle what follows. Here only
what a C-ordered uint8 array has is understood, and no number in a header allocates anything.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 4096
"""Bytes at the beginning of a file that are looked at. NumPy writes 128 for any array of ours."""

_ALIGNMENT = 64
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4}
_HEADER = re.compile(
    r"""\{\s*+['"]descr['"]\s*+:\s*+['"]([^'"]*+)['"]\s*+,"""
    r"""\s*+['"]fortran_order['"]\s*+:\s*+(True|False)\s*+,"""
    r"""\s*+['"]shape['"]\s*+:\s*+\(([^()]*+)\)\s*+,?+\s*+\}\s*+"""
)
_BYTES = frozenset(("|u1", "<u1", ">u1", "=u1", "u1"))
_MAX_DIMENSIONS = 32
_MAX_DIGITS = 15


class Header(NamedTuple):
    """What a file says of its array: its shape, and where its first byte lies."""

    shape: tuple[int, ...]
    offset: int


def encode(array: np.ndarray) -> bytes:
    """A uint8 array as a file, the same bytes with every version of NumPy."""
    # A tuple's text is what the format asks for, with the comma of a single element.
    told = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {array.shape}, }}"
    begin = len(MAGIC) + 4
    header = told.ljust(-(begin + len(told) + 1) % _ALIGNMENT + len(told)) + "\n"
    length = len(header).to_bytes(2, "little")
    return b"".join((MAGIC, b"\1\0", length, header.encode(), np.ascontiguousarray(array).data))


def read_header(data: bytes | memoryview) -> Header:
    """What the first bytes of a file, `MAX_HEADER_BYTES` or all there are, say of its array.

    Raises:
        ValueError: It is not in this format, or its array is not of uint8 in C order.
    """
    start = bytes(data[: len(MAGIC) + 2])
    if start[: len(MAGIC)] != MAGIC:
        raise ValueError("it is not in NumPy's format")
    version = (start[-2], start[-1]) if len(start) == len(MAGIC) + 2 else (0, 0)
    if version not in _LENGTH_BYTES:
        raise ValueError(f"its version of NumPy's format is {version[0]}.{version[1]}, not 1 or 2")
    begin = len(start) + _LENGTH_BYTES[version]
    end = begin + int.from_bytes(data[len(start) : begin], "little")
    if end > MAX_HEADER_BYTES:
        raise ValueError(f"its header has more than {MAX_HEADER_BYTES} bytes")
    if len(data) < end:
        raise ValueError("it ends within its header")
    match = _HEADER.fullmatch(bytes(data[begin:end]).decode("latin-1"))
    if match is None:
        raise ValueError("its header is not that of a plain array")
    descr, fortran, shape = match.groups()
    if descr not in _BYTES:
        raise ValueError(f"its values are of type {descr[:16]!r}, not uint8 ('|u1')")
    if fortran == "True":
        raise ValueError("its values lie in Fortran order; numpy.ascontiguousarray turns them")
    return Header(_shape_of(shape), end)


def decode_into(data: bytes | memoryview, out: np.ndarray) -> None:
    """Write the array of a whole file into `out`, uint8 of the same shape.

    Raises:
        ValueError: It is not such a file, or its shape is another.
    """
    header = read_header(data)
    if header.shape != out.shape:
        raise ValueError(
            f"the array is {shape_text(header.shape)}, "
            f"not {shape_text(out.shape)} as the manifest says"
        )
    size = len(data) - header.offset
    if size != out.nbytes:
        raise ValueError(f"its array has {size} bytes instead of {out.nbytes}")
    out[...] = np.frombuffer(data, np.uint8, offset=header.offset).reshape(out.shape)


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape for people: `16x64x64x3`."""
    return "x".join(str(length) for length in shape) or "a single value"


def _shape_of(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    is_tuple = len(parts) > 1 or parts == [""]
    if parts[-1] == "":
        parts.pop()
    digits = all(part.isascii() and part.isdigit() and len(part) <= _MAX_DIGITS for part in parts)
    if not (digits and is_tuple) or len(parts) > _MAX_DIMENSIONS:
        raise ValueError("its header has no shape that can be read")
    return tuple(int(part) for part in parts)
