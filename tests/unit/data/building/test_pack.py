"""A shard set that takes the place of another: the old one stays until the new one is whole."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path

import pytest

from distgen.core.errors import UsageError
from distgen.core.storage import Location, locate
from distgen.data import open_shard_set
from distgen.data.building.pack import SetWriter, replacing
from distgen.data.index import read_manifest


def files(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def write(folder: Path, made, *, fail: bool = False) -> None:
    """One sample, in place of what is there."""
    spec = made.shard_set.spec
    with (
        replacing(locate(folder), overwrite=True) as place,
        SetWriter(place, name="new", image=spec, fields=("cls", "png")) as writer,
    ):
        writer.add("one", {"png": b"bytes"}, 0)
        writer.next_shard()
        if fail:
            raise KeyboardInterrupt
        writer.commit()


@pytest.mark.parametrize("split", [None, "train"])
def test_old_set_stays_until_the_new_one_is_whole(made, make, tmp_path, split):
    if split:
        make(5, name=f"old/{split}", split=split)
    else:
        make(5, 4, name="old")
    old = tmp_path / "old"
    before = files(old)
    with pytest.raises(KeyboardInterrupt):
        write(old, made, fail=True)
    assert files(old) == before
    write(old, made)
    write(tmp_path / "fresh", made)
    assert sorted(file.name for file in old.iterdir() if file.is_file()) == sorted(
        file.name for file in (tmp_path / "fresh").iterdir()
    )
    assert open_shard_set(str(old)).num_samples == 1
    assert [file for file in old.rglob("*") if file.is_file() and file.parent != old] == []


def test_a_swap_that_was_cut_short_can_be_overwritten(made, tmp_path):
    old = tmp_path / "old"
    write(old / ".next", made)  # committed, and its files not yet moved
    with (
        pytest.raises(UsageError, match="already"),
        replacing(locate(old), overwrite=False),
    ):
        pass
    write(old, made)
    assert open_shard_set(str(old)).num_samples == 1
    assert not (old / ".next").exists()


@pytest.mark.parametrize("step", range(10))
@pytest.mark.parametrize("split", [None, "train"])
def test_whoever_is_killed_while_a_whole_set_takes_its_place_loses_nothing(
    made, make, tmp_path, monkeypatch, step, split
):
    make(5, name="old/train" if split else "old", **({"split": split} if split else {}))
    old, steps = tmp_path / "old", itertools.count()

    def counted(whole):
        def at_most(*args):
            if (old / ".next" / "manifest.json").exists() and next(steps) == step:
                raise KeyboardInterrupt
            return whole(*args)

        return at_most

    for name in ("remove", "write_text", "move_to"):
        monkeypatch.setattr(Location, name, counted(getattr(Location, name)))
    with suppress(KeyboardInterrupt):
        write(old, made)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="already"), replacing(locate(old), overwrite=False):
        pass
    new = open_shard_set(str(old), "train") if (old / "train").exists() else None
    found = new or open_shard_set(str(old))
    assert found.num_samples in (5, 1)
    for shard in read_manifest(found.location).shards:
        assert (found.location / shard.name).size() == shard.bytes
    write(old, made)
    assert open_shard_set(str(old)).num_samples == 1
    assert not (old / ".next").exists()
