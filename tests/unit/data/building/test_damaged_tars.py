"""Damaged tars, and what is no tar, are refused by name."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from distgen.core.errors import DataError, UsageError
from distgen.data import open_shard_set
from distgen.data.building.scan import index
from distgen.data.index import IndexReader
from tests.unit.data.foreign_tars import (
    header,
    labelled,
    messy,
    pax,
    picture,
    webdataset_samples,
    write_tar,
)


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_a_tar_cut_anywhere_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    whole = write_tar(tmp_path / "whole.tar", messy(0), kind).read_bytes()
    end = len(whole.rstrip(b"\0"))
    places = {0, 1, 511, 512, end} | set(range(0, end, 512)) | set(range(100, end, 1999))
    path = tmp_path / "cut" / "one.tar"
    path.parent.mkdir()
    for place in places:
        path.write_bytes(whole[:place])
        with pytest.raises(DataError) as error:
            index(path.parent)
        assert str(path) in str(error.value)
        assert sorted(each.name for each in path.parent.iterdir()) == ["one.tar"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.tar", b"", "it is empty"),
        ("a.tar", b"\x1f\x8b" + bytes(range(256)) * 4, "gzip -d"),
        ("a.tar", b"no tar at all" * 99, "it is no tar"),
        ("a.tar", bytes(10_240), "No sample"),
        ("a.tar.gz", b"x", "gzip -d"),
        ("a.zip", b"x", "holds no file '*.tar'"),
        ("a b.tar", b"x", "cannot be the name of a shard"),
    ],
)
def test_what_is_no_tar_is_named(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises((DataError, UsageError)) as error:
        index(tmp_path)
    assert words in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_damaged_header_does_not_end_a_tar(tmp_path: Path) -> None:
    """`tarfile` and with it `webdataset` would take it for the end, and lose what follows."""
    path = write_tar(tmp_path / "a.tar", labelled(["0", "1", "2"]))
    data = bytearray(path.read_bytes())
    data[2 * 1024 + 3] ^= 1
    path.write_bytes(data)
    assert len(webdataset_samples(tmp_path)) == 1
    with pytest.raises(DataError, match="cannot be used") as error:
        index(tmp_path)
    assert "header at byte 2048 is damaged" in str(error.value)


def test_what_is_no_file_is_passed_as_tarfile_passes_it(tmp_path: Path) -> None:
    """A link has no content whatever its size; a member of an unknown type has."""
    picture_here = picture().ljust(512, b"\0")
    size = len(picture())
    blocks = [header("l.png", tarfile.LNKTYPE, 7000), header("d", tarfile.DIRTYPE, 700)]
    blocks += [header("z.png", b"Z", 600), bytes(range(256)) * 4]
    blocks += [pax(b"size=9"), header("l2.png", tarfile.SYMTYPE, 0)]
    blocks += [header("a.png", tarfile.REGTYPE, size), picture_here, bytes(1024)]
    (tmp_path / "a.tar").write_bytes(b"".join(blocks))
    with tarfile.open(tmp_path / "a.tar") as tar:
        expected = [m.offset_data for m in tar if m.isreg() and m.name == "a.png"]
    assert index(tmp_path).manifest.num_samples == 1
    rows = IndexReader(open_shard_set(str(tmp_path))).table(0).to_pylist()
    assert [row["png.offset"] for row in rows] == expected


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (header("a.png", tarfile.GNUTYPE_SPARSE, 0), "sparse"),
        (pax(b"GNU.sparse.major=1") + header("a.png", tarfile.REGTYPE, 0), "sparse"),
        (pax(b"size=-5") + header("a.png", tarfile.REGTYPE, 0), "claims '-5' bytes"),
        (pax(b"size=" + b"9" * 30) + header("a.png", tarfile.REGTYPE, 0), "claims '999"),
        (header("a.png", tarfile.REGTYPE, -512), "claims '-512' bytes"),
        (header("x", tarfile.GNUTYPE_LONGNAME, 2 << 20) + bytes(3 << 20), "a long name of"),
        (header("x", tarfile.GNUTYPE_LONGNAME, 9000) + b"a" * 9216 + header("b", b"0", 0), "9000"),
        (header("x", tarfile.GNUTYPE_LONGNAME, 9) + bytes(512), "after the header of a long name"),
        (header("pax", b"x", 5) + b"9 a=b".ljust(512, b"\0"), "malformed"),
    ],
)
def test_headers_that_lie_are_refused_by_name(tmp_path: Path, start: bytes, words: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(start + bytes(2048))
    with pytest.raises(DataError) as error:
        index(tmp_path)
    assert words in str(error.value)
    assert str(path) in str(error.value)
