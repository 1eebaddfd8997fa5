"""One file out, the same model in, and nothing else ever comes in."""

from __future__ import annotations

import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distgen.core.errors import DataError, UsageError
from distgen.registry import ModelStore, inspect_bundle, load_bundle
from distgen.registry.layout import MANIFEST


@pytest.fixture
def store(tmp_path) -> ModelStore:
    return ModelStore(str(tmp_path / "models"))


@pytest.fixture
def exported(store, make_bundle, tmp_path) -> Path:
    path = tmp_path / "model.tar"
    store.export_archive(make_bundle("bundle"), path)
    return path


def members_of(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as archive:
        return [(m, archive.extractfile(m).read()) for m in archive.getmembers()]


def write(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], **options) -> None:
    with tarfile.open(path, **{"mode": "w", "format": tarfile.USTAR_FORMAT, **options}) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))


def file(name: str, data: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in fields.items():
        setattr(member, key, value)
    return member, data


def refused(store: ModelStore, path: Path) -> str:
    """The message with which the import ends, after which the store is as it was."""
    with pytest.raises(DataError) as caught:
        store.import_archive(path)
    assert store.names() == []
    assert [p.name for p in store.root.iterdir()] == []
    return str(caught.value)


def test_what_was_exported_is_imported_bit_for_bit(store, exported, make_bundle):
    name, version = store.import_archive(exported)
    assert (name, version) == ("digits-gan", 1)
    assert store.aliases(name) == {}
    digest = inspect_bundle(make_bundle("bundle")).digest
    assert load_bundle(store.resolve("digits-gan:1")).digest == digest
    assert store.import_archive(exported) == ("digits-gan", 1)
    assert store.import_archive(exported, "other") == ("other", 1)


def test_the_export_is_a_plain_tar_and_the_same_every_time(store, exported, make_bundle, tmp_path):
    names = [member.name for member, _ in members_of(exported)]
    assert names[0] == MANIFEST
    assert sorted(names) == sorted(p.name for p in (tmp_path / "bundle").iterdir())
    again = tmp_path / "again.tar"
    store.export_archive(make_bundle("bundle"), again)
    assert again.read_bytes() == exported.read_bytes()


@pytest.mark.parametrize("number", range(6))
def test_a_flipped_byte_in_any_member_is_refused(number, store, exported):
    members = members_of(exported)
    member, data = members[number]
    middle = len(data) // 2
    data = data[:middle] + bytes([data[middle] ^ 0x41]) + data[middle + 1 :]
    write(exported, [*members[:number], (member, data), *members[number + 1 :]])
    refused(store, exported)


@pytest.mark.parametrize("number", range(6))
def test_a_missing_member_is_refused(number, store, exported):
    members = members_of(exported)
    write(exported, members[:number] + members[number + 1 :])
    refused(store, exported)


@pytest.mark.parametrize(
    "extra",
    [
        file("../escaped", b"x"),
        file("/tmp/escaped", b"x"),
        file("code.py", b"x"),
        file("config.json", b"{}"),
        file("samples.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        file("samples.png", type=tarfile.LNKTYPE, linkname="config.json"),
        file("samples.png", type=tarfile.DIRTYPE),
        file("samples.png", type=tarfile.FIFOTYPE),
    ],
    ids=lambda extra: f"{extra[0].name} {extra[0].type!r}",
)
@pytest.mark.parametrize("first", [True, False])
def test_a_member_that_bundles_do_not_have_is_refused(extra, first, store, exported, tmp_path):
    members = members_of(exported)
    place = 1 if first else len(members)
    write(exported, [*members[:place], extra, *members[place:]])
    refused(store, exported)
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_extended_headers_are_refused(form, store, exported):
    members = members_of(exported)
    members[1][0].pax_headers = {"path": "../escaped"}
    members[1][0].linkname = "x" * 200
    write(exported, members, format=form)
    refused(store, exported)


@pytest.mark.parametrize(
    ("name", "size"), [("model.safetensors", 2**62), ("README.md", 2**62), ("README.md", 2**25)]
)
def test_a_size_beyond_the_end_takes_no_memory(name, size, store, exported):
    members = members_of(exported)
    manifest = json.loads(members[0][1])
    manifest["files"][name]["bytes"] = size
    write(exported, [file(MANIFEST, json.dumps(manifest).encode()), *members[1:]])
    data = bytearray(exported.read_bytes())
    lying = next(m for m, _ in members_of(exported) if m.name == name)
    lying.size = size
    data[lying.offset : lying.offset + 512] = lying.tobuf(tarfile.GNU_FORMAT)
    exported.write_bytes(data)
    tracemalloc.start()
    refused(store, exported)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize("data", [b"", b"\0" * 10240, b"not a tar", b"\x1f\x8b\x08" + b"x" * 2000])
def test_what_is_no_tar_is_refused(data, store, tmp_path):
    path = tmp_path / "other.tar"
    path.write_bytes(data)
    assert "not a model that distgen exported" in refused(store, path)


def test_a_compressed_tar_is_refused(store, exported):
    write(exported, members_of(exported), mode="w:gz")
    refused(store, exported)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 0.99))
def test_an_export_cut_short_anywhere_is_refused(share, store, exported, tmp_path):
    whole = exported.read_bytes()
    used = max(m.offset_data + m.size for m, _ in members_of(exported))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: int(share * used)])
    refused(store, cut)


def test_a_file_that_is_not_there_is_named(store, tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.tar"):
        store.import_archive(tmp_path / "nowhere.tar")


def test_a_damaged_bundle_is_not_exported(store, make_bundle, tmp_path):
    place = make_bundle("bundle")
    Path(place.path, "README.md").write_text("other")
    with pytest.raises(DataError, match=r"README\.md"):
        store.export_archive(place, tmp_path / "model.tar")
    assert not (tmp_path / "model.tar").exists()
