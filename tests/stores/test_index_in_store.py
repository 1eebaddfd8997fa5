"""Tars of another tool in a store: indexed where they are, whatever the network does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distgen.core.errors import DataError
from distgen.data import open_shard_set, read_samples
from distgen.data.building.scan import index
from distgen.data.inspect import verify
from tests.stores.proxy import Fault, FaultProxy
from tests.stores.server import Store
from tests.unit.data.foreign_tars import messy, write_tar

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def foreign(store: Store, tmp_path: Path) -> Path:
    """Two messy tars, here and in the bucket."""
    folder = tmp_path / "tars"
    for shard, kind in enumerate(("gnu", "pax")):
        write_tar(folder / f"part-{shard}.tar", messy(shard), kind)
    store.upload(folder, "foreign")
    return folder


def test_tars_in_a_store_are_indexed_as_on_the_disk(store: Store, foreign: Path) -> None:
    url = store.url("foreign")
    there = index(url, overwrite=True)
    here = index(foreign)
    assert there.manifest.fingerprint == here.manifest.fingerprint
    assert there.without_picture == here.without_picture == 2
    ours, theirs = open_shard_set(str(foreign)), open_shard_set(url)
    assert verify(theirs).ok
    every = np.arange(ours.num_samples)
    assert (read_samples(ours, every)[0] == read_samples(theirs, every)[0]).all()


def test_a_store_that_refuses_is_named_with_the_tar(
    store: Store, proxy: FaultProxy, foreign: Path
) -> None:
    refusal = Fault(status=403, code="AccessDenied")
    proxy.misbehaviour = lambda r: refusal if "1.tar" in r.path and r.method == "GET" else None
    with pytest.raises(DataError, match="cannot be read") as error:
        index(store.url("foreign", proxy.port), overwrite=True)
    assert "foreign/part-1.tar" in str(error.value)
    assert "credentials: the environment" in str(error.value)
