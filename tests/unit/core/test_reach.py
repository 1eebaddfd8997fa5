from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from distgen.core import reach, stores
from distgen.core.retry import Patience
from distgen.core.storage import Location, locate


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "LATE_S", 0.0)


def test_storage_that_can_be_used_is_left_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "not" / "yet"
    with reach.marked(str(place)) as mark:
        found = reach.storage(mark, "node")
        assert found.verdict == "ok", found
        assert str(place) in found.text
    assert not list(tmp_path.iterdir())


def test_folder_with_runs_in_it_stays(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with reach.marked(str(tmp_path)) as mark:
        assert len(list(tmp_path.iterdir())) == 2
        reach.storage(mark, "node")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_folder_that_is_another_one_here_is_not_shared_and_not_touched(tmp_path: Path) -> None:
    # As a node on another host sees the same path: the mark is not there, or not this one.
    with reach.marked(str(tmp_path / "theirs")) as mark:
        ours = tmp_path / "ours"
        moved = reach.Mark(mark.folder.replace("theirs", "ours"), mark.word)
        found = reach.storage(moved, "node")
        assert found.verdict == "problem"
        assert "storage is not shared" in found.text
        assert "every node mounts" in found.remedy
        assert not ours.exists()
        old = reach.Mark(mark.folder, "0" * 32)
        assert "storage is not shared" in reach.storage(old, "node").text


def test_mark_that_a_network_disk_shows_late_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reach, "LATE_S", 5.0)
    with reach.marked(str(tmp_path)) as mark:
        read = Location.read_text
        begin = time.monotonic()

        def late(place: Location) -> str:
            if time.monotonic() - begin < 0.3:
                raise FileNotFoundError(place.url)
            return read(place)

        monkeypatch.setattr(Location, "read_text", late)
        assert reach.storage(mark, "node").verdict == "ok"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "df -h"),
        (errno.EROFS, "ls -ld"),
        (errno.EACCES, "ls -ld"),
    ],
)
def test_storage_that_cannot_be_written_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, said: str
) -> None:
    with reach.marked(str(tmp_path)) as mark:

        def refuse(place: Location, text: str) -> None:
            raise OSError(code, os.strerror(code), place.path)

        monkeypatch.setattr(Location, "write_text", refuse)
        found = reach.storage(mark, "node")
    assert found.verdict == "problem"
    assert os.strerror(code) in found.text
    assert str(tmp_path) in found.text
    assert said in found.remedy


def test_storage_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "runs")
    with (
        pytest.raises(OSError, match=r"Not a directory|File exists") as raised,
        reach.marked(place),
    ):
        pass
    found = reach.unwritable(place, raised.value)
    assert found.verdict == "problem"
    assert place in found.text


def test_storage_that_gives_back_something_else_is_not_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with reach.marked(str(tmp_path)) as mark:
        write = Location.write_text
        monkeypatch.setattr(Location, "write_text", lambda place, text: write(place, text[:-1]))
        found = reach.storage(mark, "node")
    assert (found.verdict, "not what is read back" in found.text) == ("problem", True)


def test_storage_that_never_answers_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with reach.marked(str(tmp_path)) as mark:
        monkeypatch.setattr(reach, "ANSWER_S", 0.05)
        monkeypatch.setattr(Location, "read_text", lambda place: time.sleep(0.5))
        found = reach.storage(mark, "node")
        assert "no answer within 0.05 s" in found.text
        assert "its server does not answer" in found.remedy


def test_store_without_credentials_is_told_by_where_they_come_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "abc")
    said = "When testing 'runs' in 'bucket': AWS Error ACCESS_DENIED during HeadObject; Details: x"
    found = reach.unwritable("s3://bucket/runs", OSError(said))
    assert found.text.endswith("cannot be used: AWS Error ACCESS_DENIED during HeadObject")
    assert "AWS_ACCESS_KEY_ID" in found.remedy
    assert "abc" not in found.remedy


def test_store_that_is_down_is_given_up_soon_while_somebody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stores, "PATIENCE", Patience(deadline_s=0.4, first_pause_s=0.01))
    tries = []

    def fail() -> None:
        tries.append(1)
        raise OSError("try again later")

    with (
        pytest.raises(OSError, match="later"),
        stores.hurry(Patience(deadline_s=0.0, first_pause_s=0.01)),
    ):
        stores.reach(fail)
    assert len(tries) == 1
    with pytest.raises(OSError, match="later"):
        stores.reach(fail)
    assert len(tries) > 2, "others are as patient as before"


def test_files_that_look_the_same_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(b"x" * 100_000)
    known = reach.witness(locate(file))
    assert reach.shards("set", [known]).verdict == "ok"
    file.write_bytes(b"x" * 100_001)
    assert "another file here" in reach.shards("set", [known]).text
    file.write_bytes(b"y" + b"x" * 99_999)
    assert "another file here" in reach.shards("set", [known]).text
    file.unlink()
    found = reach.shards("set", [known])
    assert (found.verdict, f"{file} is not there") == ("problem", found.text)
    assert "same path on every node" in found.remedy
