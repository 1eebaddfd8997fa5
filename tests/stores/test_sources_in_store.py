"""Sources in a store: the same set as from the disk, in few requests, and a stated end."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from distgen.core.errors import DataError, UsageError
from distgen.core.storage import locate
from distgen.data.building import build
from tests.stores.proxy import Fault, FaultProxy
from tests.stores.server import BUCKET, Store
from tests.unit.data.building.test_stored_sources import any_source, cut_short, everything

pytestmark = pytest.mark.usefixtures("impatient")


def tars_of(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in everything(folder).items() if name.endswith(".tar")}


@pytest.mark.parametrize("kind", ["parquet", "tars", "set"])
def test_a_set_from_a_store_is_the_set_from_the_disk(
    store: Store, proxy: FaultProxy, tmp_path: Path, kind: str
) -> None:
    source = any_source(kind, tmp_path / "src")
    store.upload(source, f"sources/{kind}/{source.name}")
    url = store.url(f"sources/{kind}/{source.name}", proxy.port)
    options: dict[str, Any] = {"size": 8, "split": 0.3, "shard_samples": 10, "workers": 2}
    here = build(str(source), tmp_path / "here", **options)
    there = build(url, tmp_path / "there", **options)
    assert (there.num_samples, there.rejected) == (here.num_samples, here.rejected)
    assert tars_of(tmp_path / "there") == tars_of(tmp_path / "here")
    # 60 pictures in 2 files: neighbours come in one request.
    assert len(proxy.requests) < 60


def test_a_build_goes_on_where_the_store_left_it(
    store: Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    source = any_source("parquet", tmp_path / "src")
    store.upload(source, "sources/again")
    url = store.url("sources/again", proxy.port)
    options: dict[str, Any] = {"size": 8, "split": 0.3, "shard_samples": 6, "workers": 1}
    build(url, tmp_path / "whole", **options)
    cut_short(url, tmp_path / "set", **options)
    assert build(url, tmp_path / "set", **options).resumed > 0
    assert everything(tmp_path / "set") == everything(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["parquet", "tars"])
def test_a_store_that_refuses_is_named_with_the_credentials(
    store: Store, proxy: FaultProxy, tmp_path: Path, kind: str
) -> None:
    source = any_source(kind, tmp_path / "src")
    store.upload(source, f"sources/closed-{kind}")
    refusal = Fault(status=403, code="AccessDenied")
    proxy.misbehaviour = lambda r: refusal if r.method == "GET" and "/a." in r.path else None
    with pytest.raises(DataError, match="cannot be read") as error:
        build(store.url(f"sources/closed-{kind}", proxy.port), tmp_path / "set", size=8)
    assert "/a." in str(error.value)
    assert "credentials: the environment" in str(error.value)


def test_a_single_file_in_a_store_is_a_source(store: Store, tmp_path: Path) -> None:
    source = any_source("parquet", tmp_path / "src")
    store.upload(source, "sources/file")
    built = build(store.url("sources/file/a.parquet"), tmp_path / "set")
    assert (built.num_samples, built.manifests[None].name) == (60, "a")


@pytest.mark.parametrize(
    ("kind", "name"), [("parquet", "a.parquet"), ("tars", "a.tar"), ("set", "")]
)
def test_files_and_sets_behind_a_web_server_are_sources(
    store: Store, proxy: FaultProxy, tmp_path: Path, kind: str, name: str
) -> None:
    source = any_source(kind, tmp_path / "src")
    store.upload(source, f"web-sources/{kind}/{source.name}")
    url = f"http://127.0.0.1:{proxy.port}/{BUCKET}/web-sources/{kind}/{source.name}"
    options: dict[str, Any] = {"size": 8, "split": 0.3, "shard_samples": 10}
    build(str(source / name), tmp_path / "here", **options)
    build(f"{url}/{name}".rstrip("/"), tmp_path / "there", **options)
    assert tars_of(tmp_path / "there") == tars_of(tmp_path / "here")
    with pytest.raises(UsageError, match="does not exist") as error:
        build(f"{url}/nothing", tmp_path / "other")
    assert "web servers do not list folders" in str(error.value)


def test_the_version_of_a_file_changes_with_it(
    store: Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    file = tmp_path / "up" / "a.bin"
    file.parent.mkdir()
    urls = (
        store.url("versions/a.bin"),
        f"http://127.0.0.1:{proxy.port}/{BUCKET}/versions/a.bin",
        str(file),
    )
    found: list[list[str]] = []
    for data in (b"1", b"2"):
        time.sleep(1.0 if found else 0.0)  # stores and servers tell times in seconds
        file.write_bytes(data)
        os.utime(file, (len(found), len(found)))
        store.upload(file.parent, "versions")
        found.append([locate(url).version() for url in urls])
        assert found[-1] == [locate(url).version() for url in urls]
    assert all(before != after for before, after in zip(*found, strict=True))
