"""How sources are told apart by what is in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distgen.core.errors import UsageError
from distgen.data.building import build
from distgen.data.building.sources import open_source
from distgen.data.building.sources.folder import FolderSource
from distgen.data.building.sources.parquet import ParquetSource
from distgen.data.building.sources.shards import ShardSetSource
from distgen.data.building.sources.tar import TarSource
from tests.unit.data.conftest import Made
from tests.unit.data.foreign_tars import labelled, picture, write_tar

from .test_stored_sources import any_source, everything, parquet


def test_sources_are_told_apart_by_what_is_in_them(made: Made, tmp_path: Path) -> None:
    assert isinstance(open_source(str(made.folder)), ShardSetSource)
    assert isinstance(
        open_source(str(parquet(tmp_path / "p" / "data" / "a.parquet"))), ParquetSource
    )
    assert isinstance(open_source(str(tmp_path / "p")), ParquetSource)
    write_tar(tmp_path / "t" / "deep" / "a.TAR", labelled(["0"]))
    write_tar(tmp_path / "t" / ".hidden" / "b.parquet", [])
    assert isinstance(open_source(str(tmp_path / "t")), TarSource)
    (tmp_path / "f" / "cat").mkdir(parents=True)
    (tmp_path / "f" / "cat" / "a.png").write_bytes(picture())
    (tmp_path / "f" / "notes.parquet.txt").touch()
    assert isinstance(open_source(str(tmp_path / "f")), FolderSource)
    for name in ("manifest.json", "index.parquet"):
        (made.folder / name).rename(tmp_path / name)
    (tmp_path / "index.parquet").rename(made.folder / "index.parquet")
    assert isinstance(open_source(str(made.folder)), TarSource)


def test_links_that_lead_round_are_no_folders(tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "deep" / "a.tar", labelled(["0"]))
    for place in (tmp_path / "src", tmp_path / "src" / "deep"):
        (place / "circle").symlink_to("circle")
        (place / "back").symlink_to(tmp_path / "src")
    items = open_source(str(tmp_path / "src")).items(None)
    assert sorted(bool(item.refused) for item in items) == [False, True, True]
    with pytest.raises(UsageError, match="does not exist"):
        open_source(str(tmp_path / "src" / "circle"))


def test_a_folder_of_several_kinds_is_ambiguous(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    parquet(folder / "a.parquet")
    write_tar(folder / "b.tar", labelled(["0"]))
    for name in ("c.png", "d.jpg"):
        (folder / name).write_bytes(picture())
    with pytest.raises(UsageError, match="several kinds") as error:
        open_source(str(folder))
    assert "1 Parquet files, 2 pictures, 1 tars" in str(error.value)
    assert open_source(str(folder / "b.tar")).classes == ("0",)


@pytest.mark.parametrize("name", ["nothing", "a.csv", "a.png", "empty"])
def test_what_is_no_source_says_what_was_looked_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("a.csv", "a.png"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(UsageError) as error:
        open_source(str(tmp_path / name))
    text = str(error.value)
    assert name in text
    if name != "empty":
        assert "a shard set, or a folder of its splits" in text
        assert "a Parquet file or a WebDataset tar" in text


@pytest.mark.parametrize("below", ["", "train"])
def test_a_set_is_never_written_among_the_tars_of_its_source(tmp_path: Path, below: str) -> None:
    source = tmp_path / "src" / below
    write_tar(source / "shard-000000.tar", labelled(["0", "1"] * 9))
    write_tar(source / "train-000007.tar", labelled(["0", "1"] * 9))
    before = everything(tmp_path / "src")
    split = 0.4 if below else 0.0
    for each in (source, source / "shard-000000.tar"):
        with pytest.raises(UsageError, match="folder of the source"):
            build(str(each), tmp_path / "src", split=split, overwrite=True)
    assert everything(tmp_path / "src") == before
    with pytest.raises(UsageError, match="folder of the source"):
        build(str(source), source / "other" / "deep", split=split)
    beside = build(str(source), tmp_path / "srcs", split=split)
    single = build(str(source / "shard-000000.tar"), source / "other")
    assert (single.num_samples, beside.num_samples) == (18, 36)


def test_another_process_sees_the_same_source(tmp_path: Path) -> None:
    """Else a build that was killed would begin anew; the hash of a text is of its process."""
    sources = [str(any_source(kind, tmp_path / kind)) for kind in ("parquet", "tars", "set")]
    (tmp_path / "tars" / "notes.txt").touch()
    script = (
        "import sys\n"
        "from distgen.data.building.journal import digest_of\n"
        "from distgen.data.building.sources import open_source\n"
        "print(*(digest_of({}, {None: open_source(each).items(None)}) for each in sys.argv[1:]))"
    )
    told = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", script, *sources]
        told.add(subprocess.check_output(command, env=environment))
    assert len(told) == 1
