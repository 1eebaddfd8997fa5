"""Bytes of remote sets are kept on the disk; whatever becomes of them, pictures are the same."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distgen.core.config import parse
from distgen.core.errors import DataError, UsageError
from distgen.data import DataConfig, Stream
from distgen.data.keeping import disk, page_folder
from distgen.data.streaming import pages
from distgen.data.streaming.mixed import mix
from tests.unit.data.away import FAR, PAGE, away, epochs, files, opened, reads, said, taken
from tests.unit.data.conftest import Made


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pages, and room on whatever disk the tests run on."""
    monkeypatch.setattr(pages, "PAGE_BYTES", PAGE)
    monkeypatch.setattr(page_folder, "KEEP_FREE_BYTES", 0)


def test_every_page_is_read_from_the_store_once_whatever_comes_later(
    made: Made, tmp_path: Path
) -> None:
    shard_set, folder = away(made), tmp_path / "cache"
    epochs(made, shard_set, folder, 3)
    assert len(files(folder)) == len(reads(shard_set)) == len(set(reads(shard_set))) > 20
    assert said(folder) == taken(folder)
    # A later run, with another order, and the same set in another place.
    again = away(made)
    epochs(made, again, folder, 2, seed=7)
    assert reads(again) == []


def test_only_their_owner_may_look(made: Made, tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        epochs(made, away(made), tmp_path / "cache")
    finally:
        os.umask(before)
    for path in (tmp_path / "cache").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_sets_of_a_mix_share_a_folder_and_its_limit(
    make: Callable[..., Made], tmp_path: Path
) -> None:
    one, two = make(40, name="one"), make(17, 13, name="two")
    sets, folder = [away(one), away(two)], tmp_path / "cache"
    both = np.concatenate((one.images_nhwc, two.images_nhwc))

    def run(limit: int) -> None:
        mixed = mix([(sets[0], 1.0), (sets[1], 2.0)])
        options = {"cache_dir": str(folder), "cache_disk_gib": limit / (1 << 30)}
        with Stream(mixed, batch_size=10, epochs=3, cache="disk", **options) as stream:  # type: ignore[arg-type]
            for batch in stream:
                assert np.array_equal(batch.images_nhwc, both[batch.indices_n])

    run(FAR)
    assert len(list((folder / "pages").glob("*/use"))) == 2
    assert [len(reads(each)) for each in sets] == [len(set(reads(each))) for each in sets]
    whole = taken(folder)
    # Another run with less room takes away what is too much, and stays within it.
    run(10 * PAGE)
    assert taken(folder) <= 10 * PAGE < whole
    assert said(folder) == taken(folder)


def test_flipped_and_cut_pages_are_fetched_again(made: Made, tmp_path: Path) -> None:
    shard_set, folder = away(made), tmp_path / "cache"
    epochs(made, shard_set, folder)
    sound = {path: path.read_bytes() for path in files(folder)}
    spoilt = [path for path in sound if len(sound[path]) == PAGE][:4]
    spoilt[0].write_bytes(bytes(PAGE))
    spoilt[1].write_bytes(bytes(byte ^ 0x10 for byte in sound[spoilt[1]]))
    spoilt[2].write_bytes(sound[spoilt[2]][:100])
    spoilt[3].write_bytes(b"")
    reads(shard_set).clear()
    epochs(made, shard_set, folder)
    assert len(reads(shard_set)) == 4
    assert {path: path.read_bytes() for path in files(folder)} == sound
    assert said(folder) == taken(folder)


def test_bytes_that_are_wrong_in_the_store_are_still_an_error(made: Made, tmp_path: Path) -> None:
    shard_set, folder = away(made), tmp_path / "cache"
    epochs(made, shard_set, folder)
    place = made.shard_set.shard(2).local
    assert place is not None
    place.write_bytes(bytes(place.stat().st_size))
    epochs(made, shard_set, folder)  # the bytes that the set had are on the disk
    with closing(opened(folder)) as cache:
        kept = cache.of(shard_set)
        assert kept is not None
        kept.drop(2, PAGE)
    with pytest.raises(DataError, match="does not match its checksum"):
        epochs(made, shard_set, folder)


def test_a_set_that_was_replaced_gets_none_of_the_old_bytes(
    make: Callable[..., Made], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    old = make(20, 3, 27)
    epochs(old, away(old), folder)
    limit = taken(folder) + PAGE
    new = make(20, 3, 27, side=5)  # in the same place, under the same names
    shard_set = away(new)
    assert old.folder == new.folder
    epochs(new, shard_set, folder, 2, cache_disk_gib=limit / (1 << 30))
    # The pages of the old set made room for all of the new one.
    assert len(reads(shard_set)) == len(set(reads(shard_set)))
    assert taken(folder) <= limit
    epochs(new, shard_set, folder, cache_disk_gib=limit / (1 << 30))
    assert len(reads(shard_set)) == len(set(reads(shard_set)))


def test_sets_that_are_read_stay_and_of_others_the_one_used_longest_ago_goes(
    make: Callable[..., Made], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    sets = [make(count, name=str(count)) for count in (10, 30, 12, 13)]

    def pages_of(number: int) -> int:
        name = f"{sets[number].shard_set.fingerprint[:32]}-{PAGE}"
        return sum(path.parent.parent.name == name for path in files(folder))

    for number, made in enumerate(sets[:3]):
        epochs(made, away(made), folder)
        use = folder / "pages" / f"{made.shard_set.fingerprint[:32]}-{PAGE}" / "use"
        os.utime(use, (100 - number, 100 - number))
    whole = [pages_of(number) for number in range(4)]
    (folder / "pages" / "mine.txt").write_text("not a page")
    limit = taken(folder)
    with closing(opened(folder, limit)) as reader:
        assert reader.of(away(sets[2])) is not None  # used longest ago, were it not for us
        epochs(sets[3], away(sets[3]), folder, cache_disk_gib=limit / (1 << 30))

    assert [pages_of(number) for number in (0, 2)] == [whole[0], whole[2]]
    assert pages_of(1) + pages_of(3) == whole[1]
    assert pages_of(3) > 5
    assert said(folder) == taken(folder) <= limit
    assert (folder / "pages" / "mine.txt").exists()


def full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("why", ["write", "reserve", "no room kept free", "a file in the way"])
def test_without_a_disk_training_goes_on_with_one_warning(
    why: str,
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shard_set, folder = away(made), tmp_path / "cache"
    if why == "write":
        # The books are written with it too, in fewer bytes than a page.
        write = os.pwrite
        monkeypatch.setattr(
            os, "pwrite", lambda fd, data, at: full() if len(data) > 100 else write(fd, data, at)
        )
    elif why == "reserve":
        monkeypatch.setattr(os, "ftruncate", full)
    elif why == "no room kept free":
        monkeypatch.setattr(page_folder, "KEEP_FREE_BYTES", 1 << 60)
    else:
        folder.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        epochs(made, shard_set, folder, 2)
    assert len(caplog.records) == 1
    assert str(folder) in caplog.text
    assert "kept on the disk" in caplog.text
    if folder.is_dir():
        assert files(folder) == []
        assert said(folder) == 0


def test_what_a_full_disk_holds_is_still_read(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard_set, folder = away(made), tmp_path / "cache"
    epochs(made, shard_set, folder)
    reads(shard_set).clear()
    files(folder)[0].unlink()
    monkeypatch.setattr(page_folder, "KEEP_FREE_BYTES", 1 << 60)
    epochs(made, shard_set, folder)
    assert len(reads(shard_set)) == 1


def test_a_folder_that_is_removed_under_way_is_done_without(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard_set, folder = away(made), tmp_path / "cache"
    with Stream(
        shard_set,
        batch_size=10,
        epochs=2,
        cache="disk",
        cache_dir=str(folder),
        lanes=2,
        shuffle_window=10,
        decode_threads=1,
        prefetch_batches=1,
    ) as stream:
        next(stream)
        folder.rename(tmp_path / "gone")
        shutil.rmtree(tmp_path / "gone", ignore_errors=True)
        with caplog.at_level(logging.WARNING):
            rest = list(stream)
    assert sum(len(batch) for batch in rest) == 90
    assert all(np.array_equal(b.images_nhwc, made.images_nhwc[b.indices_n]) for b in rest)
    assert len(caplog.records) == 1
    assert not folder.exists()


def test_a_folder_that_others_made_anew_is_left_to_them(tmp_path: Path) -> None:
    folder, name = tmp_path / "cache", "0" * 32 + f"-{PAGE}"
    with closing(opened(folder)) as ours:
        place = ours._folder.enter(name) / "0" / "7"
        folder.rename(tmp_path / "gone")
        with closing(opened(folder)) as theirs:
            theirs._folder.enter(name)
            assert ours.fetch(place, PAGE, lambda: bytes(PAGE)) == bytes(PAGE)
            assert not place.exists()
            assert theirs.fetch(place, PAGE, lambda: b"x" * PAGE) == b"x" * PAGE
            assert said(folder) == taken(folder) == PAGE


def test_a_download_that_fails_leaves_the_page_to_others(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as cache:
        (tmp_path / "pages" / ("0" * 32 + "-1")).mkdir()
        place = cache._folder.enter("0" * 32 + f"-{PAGE}") / "0" / "7"

        def fail() -> bytes:
            raise DataError("The store is away.")

        with pytest.raises(DataError, match="away"):
            cache.fetch(place, PAGE, fail)
        assert files(tmp_path) == []
        assert cache.fetch(place, PAGE, lambda: bytes(PAGE)) == bytes(PAGE)
        assert cache.fetch(place, PAGE, fail) == bytes(PAGE)


def test_a_set_on_this_machine_needs_no_cache_and_is_told_so(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        epochs(made, made.shard_set, tmp_path / "cache")
    assert f"data.cache=disk keeps nothing: {made.folder} is read from this machine" in caplog.text
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("wrong", ["cache", "s3://bucket/cache", ""])
def test_folders_that_differ_from_host_to_host_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"cache_dir.*begins with / or ~"):
        parse(DataConfig, {"shards": "s3://b/x", "cache": "disk", "cache_dir": wrong}, "job.yaml")


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), float("nan")])
def test_limits_that_are_none_are_refused(wrong: float) -> None:
    with pytest.raises(UsageError, match="cache_disk_gib"):
        parse(DataConfig, {"shards": "s3://b/x", "cache_disk_gib": wrong}, "job.yaml")


@pytest.mark.parametrize("text", ["", "12 monkeys", "0", f"{1 << 50}"])
def test_books_that_are_wrong_are_made_anew_when_nobody_is_at_work(
    text: str, made: Made, tmp_path: Path
) -> None:
    shard_set, folder = away(made), tmp_path / "cache"
    epochs(made, shard_set, folder)
    lock = folder / "pages" / "lock"
    with closing(opened(folder)) as cache:
        assert cache.of(shard_set) is not None
        lock.write_text(text)
        opened(folder).close()
        assert lock.read_text() == text, "somebody was at work"
    opened(folder).close()
    assert said(folder) == taken(folder) > 0


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert disk.default_folder() == Path("/x/distgen")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/y")
    assert disk.default_folder() == Path("/home/y/.cache/distgen")
