"""Shard sets that a cluster builds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distgen.cli.data import app
from distgen.core.errors import DataError, UsageError
from distgen.data.building import build
from distgen.launch.build import Tasks, build_on_cluster, check_seen
from distgen.launch.cluster import Connection
from tests.unit.data.building.test_stored_sources import any_source, everything

OPTIONS = {"size": 8, "split": 0.3, "shard_samples": 10}


@pytest.mark.parametrize("kind", ["parquet", "tars", "set"])
def test_a_cluster_builds_the_same_bytes(
    ray_cluster: Connection, tmp_path: Path, kind: str
) -> None:
    source = any_source(kind, tmp_path / "src")
    here = build(str(source), tmp_path / "here", **OPTIONS)
    there = build_on_cluster(str(source), tmp_path / "there", address=None, **OPTIONS)
    assert (there.num_samples, there.rejected) == (here.num_samples, here.rejected)
    assert everything(tmp_path / "there") == everything(tmp_path / "here")


def test_the_command_takes_an_address(ray_cluster: Connection, tmp_path: Path) -> None:
    build("digits", tmp_path / "here")
    arguments = ["build", "digits", str(tmp_path / "there"), "--address", ray_cluster.address]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.exception
    assert everything(tmp_path / "there") == everything(tmp_path / "here")


def test_a_source_that_a_node_does_not_see_is_refused(
    ray_cluster: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src").mkdir()
    check_seen(tmp_path / "src")
    monkeypatch.setattr("distgen.launch.build._sight", _other_sight)
    with pytest.raises(UsageError, match="does not see the source") as error:
        build_on_cluster(str(tmp_path / "src"), tmp_path / "set", address=None)
    assert str(tmp_path / "src") in str(error.value)
    assert "s3://" in str(error.value)
    assert not (tmp_path / "set").exists()


def _other_sight(path: Path) -> tuple[object, str]:
    """Another answer in each process, as of a folder that is not shared."""
    return os.getpid(), "elsewhere"


def refuse(what: str) -> None:
    raise DataError(what, where="there", remedy="mend it")


def test_errors_come_back_as_they_were(ray_cluster: Connection) -> None:
    with Tasks() as tasks:
        assert tasks.submit(divmod, 7, 2).result(60) == (3, 1)
        with pytest.raises(DataError, match="not so good") as error:
            tasks.submit(refuse, "not so good").result(60)
        assert (error.value.where, error.value.remedy) == ("there", "mend it")
