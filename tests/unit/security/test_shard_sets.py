"""A shard set from elsewhere gives pictures, or is refused by name; nothing in it is run."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distgen.core.errors import DataError
from distgen.core.storage import sha256_of
from distgen.data import Stream, open_shard_set
from distgen.data.building import build
from distgen.data.building.scan import index
from distgen.data.formats.png import encode_plain
from distgen.data.index import IndexReader
from tests.unit.data.conftest import make_set
from tests.unit.security.conftest import Attack

PNG = encode_plain(np.zeros((4, 4, 1), np.uint8))


@pytest.fixture
def made(attack: Attack) -> Path:
    """A sound set of one shard, to be made an evil one."""
    return make_set(attack.inside / "set", [6]).folder


def rewrite_index(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the index, and have the manifest vouch for it."""
    place, manifest = folder / "index.parquet", folder / "manifest.json"
    table = change(pq.read_table(place))
    pq.write_table(table, place, write_page_checksum=True)
    raw = json.loads(manifest.read_text())
    data = place.read_bytes()
    raw["index"] = {"bytes": len(data), "sha256": sha256_of(data)}
    manifest.write_text(json.dumps(raw))


def set_column(name: str, row: int, value: int) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table.column(name).to_pylist()
        values[row] = value
        number = table.schema.get_field_index(name)
        return table.set_column(number, name, pa.array(values, pa.int64()))

    return change


def first_batch(folder: Path) -> np.ndarray:
    with Stream(open_shard_set(str(folder)), batch_size=6, seed=0) as stream:
        return next(iter(stream)).images_nhwc


def refused(folder: Path) -> str:
    """The message with which a stream over the set ends, before any memory is taken for it."""
    with pytest.raises(DataError) as caught:
        first_batch(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_the_sound_set_of_these_tests_is_read(made: Path) -> None:
    rewrite_index(made, lambda table: table)
    assert first_batch(made).shape == (6, 4, 4, 1)


@pytest.mark.parametrize("name", ["manifest.json"])
def test_json_without_end_is_refused(name: str, made: Path, deep_json: bytes) -> None:
    (made / name).write_bytes(deep_json)
    assert name in refused(made)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_samples", "NaN"),
        ("num_samples", "Infinity"),
        ("num_samples", "1e30"),
        ("num_samples", "-6"),
        ("num_samples", "9" * 60),
        ("fields", '["os.system"]'),
        ("fields", "[]"),
        ("index", '{"bytes": NaN, "sha256": ""}'),
        ("image", '{"height": 4, "width": 1e12, "mode": "L"}'),
        ("image", '{"height": 4, "width": 4, "mode": "os.system"}'),
        ("decoder", '"os.system"'),
    ],
)
def test_a_manifest_of_impossible_values_is_refused(key: str, value: str, made: Path) -> None:
    raw = json.loads((made / "manifest.json").read_text())
    raw.pop(key, None)
    (made / "manifest.json").write_text(json.dumps(raw)[:-1] + f', "{key}": {value}}}')
    assert "manifest" in refused(made)


@pytest.mark.parametrize("samples", [10**30, 10**12, 100_000])
def test_a_shard_cannot_hold_more_samples_than_its_bytes(samples: int, made: Path) -> None:
    raw = json.loads((made / "manifest.json").read_text())
    raw["num_samples"] = raw["shards"][0]["samples"] = samples
    (made / "manifest.json").write_text(json.dumps(raw))
    assert "samples" in refused(made)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("png.offset", -512),
        ("png.offset", 2**62),
        ("png.size", -1),
        ("png.size", 2**40),
        ("png.size", 2**62),
    ],
)
def test_an_index_that_points_outside_its_tar_is_refused(
    column: str, value: int, made: Path
) -> None:
    rewrite_index(made, set_column(column, 3, value))
    assert "index" in refused(made)


def test_an_index_of_another_type_is_refused(made: Path, attack: Attack) -> None:
    def as_text(table: pa.Table) -> pa.Table:
        number = table.schema.get_field_index("png.offset")
        evil = pa.array([f"__import__('os').mkdir('{attack.canary}')"] * table.num_rows)
        return table.set_column(number, "png.offset", evil)

    rewrite_index(made, as_text)
    assert "index" in refused(made)
    rewrite_index(made, lambda table: table.drop_columns(["png.offset"]))
    assert "index" in refused(made)


def test_a_pickle_in_an_indexs_types_is_not_loaded(made: Path, attack: Attack) -> None:
    def with_pickled_type(table: pa.Table) -> pa.Table:
        field = table.schema.field("label")
        marks = {
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": attack.pickled,
        }
        number = table.schema.get_field_index("label")
        return table.set_column(number, field.with_metadata(marks), table.column("label"))

    rewrite_index(made, with_pickled_type)
    IndexReader(open_shard_set(str(made))).rows(0)
    assert not attack.canary.exists()


def test_a_picture_that_is_a_pickle_is_named(made: Path, attack: Attack) -> None:
    shard = next(made.glob("*.tar"))
    offset = IndexReader(open_shard_set(str(made))).rows(0).offset[0]
    evil = attack.pickled[: len(PNG)].ljust(len(PNG), b".")
    with shard.open("r+b") as file:
        file.seek(offset)
        file.write(evil)
    rewrite_index(made, set_column("png.size", 0, len(evil)))
    rewrite_index(made, set_column("png.crc32", 0, zlib.crc32(evil)))
    assert "sample-00000" in refused(made)


def tar_of(path: Path, *members: tuple[str, bytes, bytes]) -> Path:
    """A tar of members (name, type, content); the content of a link is where it leads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            else:
                info.linkname = content.decode()
            tar.addfile(info, io.BytesIO(content))
    return path


ODD_MEMBERS = (
    ("../outside/a.png", tarfile.REGTYPE, PNG),
    ("/outside/b.png", tarfile.REGTYPE, PNG),
    ("x/../../outside/c.png", tarfile.REGTYPE, PNG),
    ("d.png", tarfile.SYMTYPE, b"../outside/secret"),
    ("e.png", tarfile.LNKTYPE, b"../outside/secret"),
    ("f.png", tarfile.CHRTYPE, b""),
    ("g.png", tarfile.FIFOTYPE, b""),
    ("../outside", tarfile.SYMTYPE, b"/"),
    ("h.png", tarfile.REGTYPE, PNG),
)


def evil_members(attack: Attack) -> list[tuple[str, bytes, bytes]]:
    """Members that tools unpickle by their names, and members of all kinds."""
    pickles = [(f"h.{end}", tarfile.REGTYPE, attack.pickled) for end in ("pkl", "pyd", "pth", "pt")]
    return [*ODD_MEMBERS, *pickles, ("h.sh", tarfile.REGTYPE, attack.shell.encode())]


def test_members_of_a_foreign_tar_are_never_extracted_linked_or_loaded(attack: Attack) -> None:
    folder = attack.inside / "tars"
    tar_of(folder / "a.tar", *evil_members(attack))
    index(str(folder))
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["a.tar", "index.parquet", "manifest.json"]
    with Stream(open_shard_set(str(folder)), batch_size=4, seed=0) as stream:
        assert not next(iter(stream)).images_nhwc.any()
    keys = [IndexReader(open_shard_set(str(folder))).key(0, row) for row in range(4)]
    assert keys[-1] == "h", "links and devices are no samples"


def test_a_build_from_a_foreign_tar_writes_below_its_folder_only(attack: Attack) -> None:
    source, target = attack.inside / "tars", attack.inside / "built"
    tar_of(source / "a.tar", *evil_members(attack))
    build(str(source), str(target))
    for tar in target.glob("**/*.tar"):
        with tarfile.open(tar) as archive:
            for member in archive:
                assert member.isreg()
                assert not member.name.startswith(("/", "."))
                assert ".." not in member.name.split("/")
    assert sorted(p.name for p in attack.inside.iterdir()) == ["built", "tars"]


def png_that_claims(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG with a header of its own, and further chunks."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def npy_of(descr: str, shape: str, body: bytes = b"") -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + body


def test_bombs_among_pictures_are_listed_by_name_with_the_reason(attack: Attack) -> None:
    source = attack.inside / "pictures"
    source.mkdir()
    words = zlib.compress(b"x" * (1 << 27))
    bombs = {
        "wide.png": png_that_claims(2**31 - 1, 1),
        "large.png": png_that_claims(60_000, 60_000),
        "text.png": png_that_claims(8, 8, (b"zTXt", b"a\0\0" + words)),
        "pickle.png": attack.pickled,
        "script.png": f"#!/bin/sh\n{attack.shell}\n".encode(),
        "empty.png": b"",
    }
    for name, data in bombs.items():
        (source / name).write_bytes(data)
    (source / "sound.png").write_bytes(PNG)
    build(str(source), str(attack.inside / "built"))
    listed = (attack.inside / "built" / "rejected.csv").read_text()
    for name in bombs:
        assert name in listed, f"{name} was taken:\n{listed}"
    assert open_shard_set(str(attack.inside / "built"), "train").num_samples == 1


def test_arrays_with_objects_or_impossible_shapes_are_no_clips(attack: Attack) -> None:
    source = attack.inside / "clips"
    source.mkdir()
    evil = {
        "pickle.npy": npy_of("|O", "(1,)", attack.pickled),
        "bare.npy": attack.pickled,
        "vast.npy": npy_of("|u1", "(999999999, 9999999, 9999, 3)"),
        "negative.npy": npy_of("|u1", "(-4, 4, 4, 1)"),
        "code.npy": npy_of("|u1", f"__import__('os').mkdir('{attack.canary}')"),
    }
    for name, data in evil.items():
        (source / name).write_bytes(data)
    sound = io.BytesIO()
    np.save(sound, np.zeros((4, 4, 4, 1), np.uint8))
    (source / "sound.npy").write_bytes(sound.getvalue())
    build(str(source), str(attack.inside / "built"), frames=2)
    listed = (attack.inside / "built" / "rejected.csv").read_text()
    for name in evil:
        assert name in listed, f"{name} was taken:\n{listed}"


def test_a_source_whose_types_hold_a_pickle_is_read_as_data(attack: Attack) -> None:
    field = pa.field("image", pa.binary()).with_metadata(
        {
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": attack.pickled,
        }
    )
    table = pa.table([pa.array([PNG] * 4)], schema=pa.schema([field]))
    pq.write_table(table, attack.inside / "images.parquet")
    build(str(attack.inside / "images.parquet"), str(attack.inside / "built"))
