"""Mutated tars: a DataError or the samples that `tarfile` sees, within the file and its memory."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distgen.core.errors import DataError
from distgen.data.formats.foreign import Rules, scan_tar
from distgen.data.formats.tars import TarFile
from tests.unit.data.foreign_tars import FORMATS, Bytes, messy, picture

BLOCK = 512


def tar_of(kind: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=FORMATS[kind]) as tar:
        members = [*messy(0)[:12], ("a.json", b'{"kind": 1}'), ("a.webp", picture(format="WEBP"))]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


TARS = {kind: tar_of(kind) for kind in FORMATS}
# Where in a header the fields lie that say something, and what may be written there.
FIELDS = [
    (0, 8),
    (100, 8),
    (124, 12),
    (148, 8),
    (156, 1),
    (257, 8),
    (345, 16),
    (386, 48),
    (482, 13),
]
VALUES = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.sampled_from(
        [
            b"77777777777\0",
            b"\x80" + b"\xff" * 11,
            b"\xff" * 12,
            b"-1\0",
            b"\0" * 12,
            b"00000001000",
        ]
    ),
)
TYPES = st.sampled_from([bytes([kind]) for kind in b"01234567LKNSXgxVD\0"])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A tar after one to six accidents, each with or without a header checksum that fits."""
    data = bytearray(TARS[draw(st.sampled_from(sorted(TARS)))])
    for _ in range(draw(st.integers(1, 6))):
        blocks = max(1, len(data) // BLOCK)
        begin = draw(st.integers(0, blocks - 1)) * BLOCK
        other = draw(st.integers(0, blocks - 1)) * BLOCK
        kind = draw(st.sampled_from(["flip", "field", "type", "pax", "cut", "drop", "copy", "add"]))
        if kind == "flip" and data:
            data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
        elif kind in ("field", "type", "pax"):
            starts = headers(data)
            begin = draw(st.sampled_from(starts)) if starts else begin
            if kind == "type":
                data[begin + 156 : begin + 157] = draw(TYPES)
            elif kind == "field":
                place, size = draw(st.sampled_from(FIELDS))
                value = draw(VALUES)[:size]
                data[begin + place : begin + place + len(value)] = value
            else:
                record = draw(st.sampled_from([b"size", b"path", b"GNU.sparse.major", b"x"]))
                value = draw(st.sampled_from([b"1", b"0", b"-5", b"9" * 40, b"a/b.png", b""]))
                body = b" " + record + b"=" + value + b"\n"
                body = str(len(body) + 2).encode() + body
                info = tarfile.TarInfo("pax")
                info.type, info.size = draw(st.sampled_from([b"x", b"g", b"X", b"L"])), len(body)
                data[begin:begin] = info.tobuf(tarfile.USTAR_FORMAT) + body.ljust(BLOCK, b"\0")
            if draw(st.integers(0, 4)):  # else nothing behind the header would be tried
                mend(data, begin)
        elif kind == "cut":
            del data[draw(st.integers(0, len(data))) :]
        elif kind == "drop":
            del data[begin : begin + BLOCK * draw(st.integers(1, 3))]
        elif kind == "copy":
            data[begin:begin] = data[other : other + BLOCK * draw(st.integers(1, 8))]
        else:
            data[begin:begin] = draw(st.binary(min_size=1, max_size=BLOCK + 5))
    return bytes(data)


def headers(data: bytes | bytearray) -> list[int]:
    return [
        place
        for place in range(0, len(data) - BLOCK + 1, BLOCK)
        if data[place + 257 : place + 262] == b"ustar"
    ]


def mend(data: bytearray, begin: int) -> None:
    """Make the checksum of a header fit."""
    header = data[begin : begin + BLOCK]
    if len(header) == BLOCK:
        total = sum(header) - sum(header[148:156]) + 8 * 32
        data[begin + 148 : begin + 156] = b"%06o\0 " % total


def check(data: bytes) -> None:
    file = Bytes(data)
    walk = TarFile(file, len(data), "mutated.tar")
    found, refused = None, "mutated.tar"
    try:
        found, rows = scan_tar(walk, Rules(label_key="kind"))
        walk.sha256()
    except DataError as error:
        refused = str(error)
    assert "mutated.tar" in refused
    # Time is bounded by what is read, and nothing is read twice.
    assert file.read <= len(data)
    if found is None:
        return
    assert rows.num_rows == found.samples
    names = places_by_tarfile(data)
    for field in found.fields:
        ranges = zip(
            rows[f"{field}.offset"].to_pylist(), rows[f"{field}.size"].to_pylist(), strict=True
        )
        assert {each for each in ranges if each[0] is not None} <= names


def places_by_tarfile(data: bytes) -> set[tuple[int, int]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {(member.offset_data, member.size) for member in tar if member.isreg()}


@given(mutated())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_a_mutated_tar_is_refused_or_read_as_tarfile_reads_it(data: bytes) -> None:
    check(data)


@pytest.mark.slow
@given(mutated())
@settings(max_examples=10_000, suppress_health_check=[HealthCheck.too_slow])
def test_ten_thousand_mutated_tars(data: bytes) -> None:
    check(data)


@given(mutated())
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_memory_is_that_of_the_file_whatever_its_headers_claim(data: bytes) -> None:
    tracemalloc.start()
    try:
        check(data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_member_that_claims_terabytes_costs_nothing(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.size = 1 << 45
    data = info.tobuf(tarfile.GNU_FORMAT) + bytes(2 * BLOCK)
    file = Bytes(data)
    with pytest.raises(DataError, match="cut short"):
        scan_tar(TarFile(file, len(data), "x.tar"), Rules())
