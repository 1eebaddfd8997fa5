"""Arrays in NumPy's file format: read strictly, and never by what a header only claims."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from distgen.data.formats import npy
from distgen.data.formats.decode import decode_into

CLIP = np.arange(3 * 4 * 5 * 1, dtype=np.uint8).reshape(3, 4, 5, 1)
PLAIN = npy.encode(CLIP)


def saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def with_header(text: str, payload: bytes = CLIP.tobytes(), version: int = 1) -> bytes:
    length = len(text.encode("latin-1")).to_bytes(2 if version == 1 else 4, "little")
    return npy.MAGIC + bytes((version, 0)) + length + text.encode("latin-1") + payload


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=0, max_dims=5, max_side=4)))
def test_what_is_written_is_what_numpy_writes_and_is_read_back(array: np.ndarray) -> None:
    data = npy.encode(array)
    assert data == saved(array)
    out = np.empty_like(array)
    npy.decode_into(data, out)
    assert np.array_equal(out, array)
    npy.decode_into(memoryview(saved(array, (2, 0))), out)
    assert np.array_equal(out, array)


def test_a_clip_is_decoded_into_the_batch() -> None:
    batch = np.zeros((2, 3, 4, 5, 1), np.uint8)
    decode_into(memoryview(PLAIN), batch[1])
    assert np.array_equal(batch[1], CLIP)
    assert not batch[0].any()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not in NumPy's format"),
        (b"\x89PNG\r\n\x1a\n", "not in NumPy's format"),
        (PLAIN[:7], "version"),
        (npy.MAGIC + b"\3\0" + PLAIN[8:], "3.0, not 1 or 2"),
        (PLAIN[:100], "ends within its header"),
        (PLAIN[:-1], "59 bytes instead of 60"),
        (PLAIN + b"\0", "61 bytes instead of 60"),
        (saved(CLIP.astype(np.int16)), "'<i2', not uint8"),
        (saved(CLIP.astype(np.int8)), "'|i1', not uint8"),
        (saved(CLIP > 3), "'|b1', not uint8"),
        (saved(np.array([None])), "'|O', not uint8"),
        (saved(np.zeros(3, [("a", "u1")])), "not that of a plain array"),
        (saved(np.asfortranarray(np.ones((3, 4), np.uint8))), "Fortran"),
        (saved(CLIP[:2]), "the array is 2x4x5x1, not 3x4x5x1"),
        (saved(CLIP[..., 0]), "the array is 3x4x5, not 3x4x5x1"),
    ],
)
def test_another_array_is_refused_with_the_reason(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_into(data, np.empty_like(CLIP))


@pytest.mark.parametrize(
    "shape",
    ["(5)", "5", "(1, -2)", "(1, 2", "(1 2,)", "(1,,2)", "(,)", "(0x10,)", "(1e3,)", "(True,)",
     "(1_000,)", "(³,)", "(9999999999999999,)", "(" + "1," * 33 + ")"],
)  # fmt: skip
def test_a_shape_is_a_tuple_of_plain_numbers(shape: str) -> None:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n"
    with pytest.raises(ValueError, match="its header"):
        npy.read_header(with_header(text))


@pytest.mark.parametrize("version", [1, 2])
def test_a_header_that_claims_much_takes_no_memory(version: int) -> None:
    text = "{'descr': '|u1', 'fortran_order': False, 'shape': (999999999999, 9999999, 9999, 3), }"
    with pytest.raises(ValueError, match="999999999999x9999999x9999x3"):
        decode_into(with_header(text, version=version), np.empty_like(CLIP))
    endless = npy.MAGIC + b"\2\0" + b"\xff\xff\xff\x7f" + b" " * 8192
    with pytest.raises(ValueError, match="more than 4096 bytes"):
        npy.read_header(endless)


def check_as_numpy(data: bytes) -> None:
    """What is taken, NumPy takes too, for the same array; all else is a ValueError."""
    out = np.empty_like(CLIP)
    try:
        decode_into(data, out)
    except ValueError:
        return
    assert np.array_equal(np.load(io.BytesIO(data), allow_pickle=False), out)


@given(st.data())
def test_damaged_files_raise_nothing_but_value_errors(data: st.DataObject) -> None:
    content = bytearray(PLAIN)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 130))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    check_as_numpy(bytes(content[: data.draw(st.integers(0, 200))]))


@given(
    st.lists(
        st.sampled_from(
            ["{", "}", "(", ")", "'", '"', ",", ":", " ", "\n", "'descr'", "'fortran_order'",
             "'shape'", "'|u1'", "'|O'", "True", "False", "3, 4, 5, 1", "60", "-1", "L", "\xb2",
             "{'descr': '|u1', ", "'fortran_order': False, ", "'shape': (3, 4, 5, 1)"]
        ),
        max_size=12,
    ),
    st.sampled_from([1, 2]),
)  # fmt: skip
@example(["{'descr': '|u1', ", "'fortran_order': False, ", "'shape': (3, 4, 5, 1)", "}"], 1)
def test_odd_headers_raise_nothing_but_value_errors(parts: list[str], version: int) -> None:
    check_as_numpy(with_header("".join(parts) + "\n", version=version))
