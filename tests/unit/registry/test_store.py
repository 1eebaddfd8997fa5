"""Versions never change, aliases move one at a time, and a worse model needs to be forced."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from distgen.core.errors import EXIT_USAGE, DataError, UsageError
from distgen.registry import ModelStore, inspect_bundle, load_bundle, resolve_model
from distgen.registry.aliases import AliasMovedError, compare_and_set, history, stack


@pytest.fixture
def store(tmp_path) -> ModelStore:
    return ModelStore(str(tmp_path / "models"))


def test_promotions_number_versions_and_move_the_alias(store, make_bundle):
    assert store.promote(make_bundle("a", 20.0, seed=1)) == 1
    assert store.promote(make_bundle("b", 19.0, seed=2)) == 2
    assert store.names() == ["digits-gan"]
    assert store.versions("digits-gan") == [1, 2]
    assert store.aliases("digits-gan") == {"champion": 2}
    assert load_bundle(store.resolve("digits-gan")).card.headline == 19.0
    assert [move.version for move in store.history("digits-gan", "champion")] == [1, 2]


def test_a_version_is_a_faithful_copy_that_does_not_change(store, make_bundle):
    source = make_bundle("a")
    store.promote(source)
    digest = inspect_bundle(source).digest
    make_bundle("a", 5.0, seed=9)
    assert load_bundle(store.resolve("digits-gan:1")).digest == digest
    assert {p.stat().st_mode & 0o222 for p in Path(store.resolve("digits-gan").path).iterdir()} == {
        0
    }


def test_the_same_bundle_is_kept_once(store, make_bundle):
    place = make_bundle("a")
    assert store.promote(place) == 1
    assert store.promote(place) == 1
    assert store.promote(place, alias="candidate") == 1
    assert store.versions("digits-gan") == [1]
    assert len(store.history("digits-gan", "champion")) == 1


def test_a_worse_model_is_refused_and_told_by_how_much(store, make_bundle):
    store.promote(make_bundle("a", 20.0, seed=1))
    worse = make_bundle("b", 25.0, seed=2)
    with pytest.raises(UsageError, match=r"worse than digits-gan:1 \(champion\) by 5 \(25%\)") as e:
        store.promote(worse)
    assert "--force" in str(e.value)
    assert e.value.exit_code == EXIT_USAGE
    assert store.versions("digits-gan") == [1], "nothing is kept of a model that was refused"
    assert store.promote(worse, alias="candidate") == 2
    assert store.promote(worse, force=True) == 2
    assert store.aliases("digits-gan") == {"candidate": 2, "champion": 2}


def test_an_equal_model_is_not_worse(store, make_bundle):
    store.promote(make_bundle("a", 20.0, seed=1))
    assert store.promote(make_bundle("b", 20.0, seed=2)) == 2


@pytest.mark.parametrize(
    ("changes", "word"), [({"fingerprint": "c" * 64}, "shard set"), ({"samples": 5}, "samples")]
)
def test_cards_of_different_yardsticks_do_not_compare(changes, word, store, make_bundle):
    store.promote(make_bundle("a", 20.0, seed=1))
    with pytest.raises(UsageError, match="cannot be compared") as caught:
        store.promote(make_bundle("b", 1.0, seed=2, **changes))
    assert word in str(caught.value.cause)


@pytest.mark.parametrize(("first", "second"), [(20.0, None), (None, 20.0)])
def test_a_model_without_a_card_has_to_be_forced(first, second, store, make_bundle):
    store.promote(make_bundle("a", first, seed=1))
    other = make_bundle("b", second, seed=2)
    with pytest.raises(UsageError, match="no quality card"):
        store.promote(other)
    assert store.promote(other, force=True) == 2


def test_rollback_goes_back_step_by_step(store, make_bundle):
    for number, distance in enumerate((20.0, 19.0, 18.0)):
        store.promote(make_bundle(str(number), distance, seed=number))
    assert store.rollback("digits-gan") == 2
    assert store.rollback("digits-gan") == 1
    with pytest.raises(UsageError, match="no earlier version"):
        store.rollback("digits-gan")
    assert store.promote(make_bundle("0", 20.0, seed=0)) == 1
    assert store.promote(make_bundle("3", 17.0, seed=3)) == 4
    assert store.rollback("digits-gan") == 1
    actions = [move.action for move in store.history("digits-gan", "champion")]
    assert actions == ["promote"] * 3 + ["rollback"] * 2 + ["promote", "rollback"]


def test_a_damaged_bundle_is_not_promoted(store, make_bundle):
    place = make_bundle("a")
    path = Path(place.path, "model.safetensors")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        store.promote(place)
    assert store.names() == []


def test_of_two_moves_from_one_state_one_wins_and_one_is_told(tmp_path):
    folder, outcomes, losers = tmp_path / "champion", [], []
    gate = threading.Barrier(8)

    def move(version: int) -> None:
        gate.wait()
        try:
            compare_and_set(folder, version, "promote", expected_moves=0)
            outcomes.append(version)
        except AliasMovedError as error:
            losers.append(str(error))

    threads = [threading.Thread(target=move, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert len(losers) == 7
    assert all("by another process" in text for text in losers)
    assert [m.version for m in history(folder)] == outcomes
    assert [p.name for p in folder.iterdir()] == ["000001.json"]


def test_a_bundle_that_changes_while_it_is_promoted_is_not_kept(store, make_bundle, monkeypatch):
    place = make_bundle("a", 20.0)
    keep = ModelStore._keep

    def keep_late(self, *args):
        make_bundle("a", 30.0, seed=9)
        return keep(self, *args)

    monkeypatch.setattr(ModelStore, "_keep", keep_late)
    with pytest.raises(DataError, match="written anew"):
        store.promote(place)
    assert store.names() == []


def test_promotions_at_the_same_time_lose_no_version_and_no_move(store, make_bundle):
    places = [make_bundle(str(n), 20.0, seed=n) for n in range(6)]
    gate, versions = threading.Barrier(len(places)), []

    def promote(place) -> None:
        # A store of its own, as another process has: they meet in the filesystem alone.
        own = ModelStore(str(store.root))
        gate.wait()
        versions.append(own.promote(place, force=True))

    threads = [threading.Thread(target=promote, args=(place,)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions.sort()
    assert versions == store.versions("digits-gan") == [1, 2, 3, 4, 5, 6]
    moves = store.history("digits-gan", "champion")
    assert sorted(move.version for move in moves) == versions
    for version in versions:
        load_bundle(store.bundle("digits-gan", version))


def test_the_model_that_came_between_is_the_one_to_beat(store, make_bundle, monkeypatch):
    store.promote(make_bundle("a", 20.0, seed=1))
    middle, late = make_bundle("b", 10.0, seed=2), make_bundle("c", 15.0, seed=3)
    keep = ModelStore._keep

    def keep_slowly(self, *args):
        monkeypatch.setattr(ModelStore, "_keep", keep)
        ModelStore(str(store.root)).promote(middle)
        return keep(self, *args)

    monkeypatch.setattr(ModelStore, "_keep", keep_slowly)
    with pytest.raises(UsageError, match="worse than digits-gan:2"):
        store.promote(late)
    assert load_bundle(store.resolve("digits-gan@champion")).card.headline == 10.0


def test_a_log_of_moves_is_a_stack():
    from distgen.registry.aliases import Move

    def moves(*steps: tuple[int, str]) -> list[Move]:
        return [Move(version=version, action=action, time="") for version, action in steps]

    assert stack(moves((1, "promote"), (2, "promote"), (1, "rollback"), (3, "promote"))) == [1, 3]


def test_a_damaged_log_is_named(store, make_bundle):
    store.promote(make_bundle("a"))
    log = store.root / "digits-gan" / "aliases" / "champion"
    (log / "000001.json").write_text("{}")
    with pytest.raises(DataError, match="log of an alias") as caught:
        store.resolve("digits-gan@champion")
    assert "000001.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("digits-gam", "no model 'digits-gam'", "did you mean 'digits-gan'"),
        ("digits-gan@champoin", "no alias 'champoin'", "did you mean 'champion'"),
        ("digits-gan:7", "no version '7'", "versions: 1"),
        ("digits-gan:champion", "no version 'champion'", "digits-gan@champion"),
        ("digits-gan@a:1", "cannot be the name", ""),
        ("../digits-gan", "cannot be the name", ""),
        ("DIGITS", "cannot be the name", "lower-case"),
        ("", "cannot be the name", ""),
    ],
)
def test_names_that_stand_for_nothing_are_answered_with_the_nearest(
    text, message, remedy, store, make_bundle
):
    store.promote(make_bundle("a"))
    with pytest.raises(UsageError) as caught:
        store.resolve(text)
    assert message in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "x" * 65, "name\n", "UPPER"])
def test_no_model_is_kept_under_a_name_that_is_a_path(name, store, make_bundle):
    with pytest.raises(UsageError, match="cannot be the name"):
        store.promote(make_bundle("a"), name)
    with pytest.raises(UsageError, match="cannot be an alias"):
        store.promote(make_bundle("a"), "fine", "../champion")


def test_a_link_out_of_the_store_is_not_followed(store, make_bundle, tmp_path):
    outside = tmp_path / "outside"
    ModelStore(str(outside)).promote(make_bundle("a"))
    store.root.mkdir()
    (store.root / "linked").symlink_to(outside / "digits-gan")
    assert store.names() == []
    with pytest.raises(UsageError, match="leads out"):
        store.resolve("linked:1")


def test_an_object_store_cannot_hold_a_store():
    with pytest.raises(UsageError, match="cannot be kept"):
        ModelStore("s3://bucket/models")


def test_model_means_a_run_a_bundle_or_a_name(store, make_bundle, tmp_path, monkeypatch):
    place = make_bundle("runs/fine/bundle")
    root = str(store.root)
    store.promote(place)
    assert resolve_model(str(tmp_path / "runs" / "fine"), root).path == place.path
    assert resolve_model(place.path, root).path == place.path
    for text in ("digits-gan", "digits-gan@champion", "digits-gan:1"):
        assert resolve_model(text, root).path == store.bundle("digits-gan", 1).path
    monkeypatch.chdir(tmp_path / "runs")
    assert resolve_model("fine", root).path == place.path
    (tmp_path / "runs" / "digits-gan").mkdir()
    assert resolve_model("digits-gan", root).path == store.bundle("digits-gan", 1).path


def test_a_run_that_has_not_ended_says_how_to_go_on(store, tmp_path):
    run = tmp_path / "runs" / "young"
    run.mkdir(parents=True)
    (run / "job.yaml").write_text("kind: train\n")
    with pytest.raises(UsageError, match="has no bundle yet") as caught:
        resolve_model(str(run), str(store.root))
    assert f"distgen train {run}/job.yaml" in str(caught.value)


def test_a_name_that_is_nowhere_is_answered_with_the_nearest(
    store, make_bundle, tmp_path, monkeypatch
):
    make_bundle("runs/fashion-gan/bundle")
    store.promote(make_bundle("a"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no model 'fashion-gn'") as caught:
        resolve_model("fashion-gn", "models")
    assert "did you mean 'runs/fashion-gan'" in str(caught.value)
    with pytest.raises(UsageError, match="no model") as caught:
        resolve_model("digits-gam@champion", "models")
    assert "did you mean 'digits-gan'" in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no model"):
        resolve_model("empty", "models")
    (tmp_path / "model.tar").write_bytes(b"")
    with pytest.raises(UsageError, match=r"no model 'model\.tar'"):
        resolve_model("model.tar", "models")
