"""What a promotion looks at, and trials of a version on a share of the requests."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch

from distgen.core.errors import UsageError
from distgen.core.storage import Location, locate
from distgen.registry import ModelStore, write_bundle
from distgen.registry.aliases import compare_and_set, history, last
from tests.unit.registry.small_bundles import GAN, SPEC, card, state_of


@pytest.fixture
def store(tmp_path) -> ModelStore:
    return ModelStore(str(tmp_path / "models"))


def spoiled(folder: Path, last_bias: float) -> Location:
    """A bundle whose last layer has this bias and no weights, with the best of cards."""
    state = state_of(GAN, SPEC)
    weight, bias = list(state)[-2:]
    state |= {weight: state[weight] * 0, bias: torch.full_like(state[bias], last_bias)}
    write_bundle(
        locate(folder),
        model_config=GAN,
        spec=SPEC,
        state=state,
        card=card(0.1),
        samples_png=None,
        name="digits-gan",
        images_seen=1,
    )
    return locate(folder)


@pytest.mark.parametrize(
    ("value", "says"), [(float("nan"), "not numbers"), (9.0, "of one colour"), (0.0, "one colour")]
)
@pytest.mark.parametrize("force", [False, True])
def test_a_model_whose_pictures_nobody_may_see_is_not_promoted(
    store, make_bundle, tmp_path, value, says, force
):
    store.promote(make_bundle("a"))
    with pytest.raises(UsageError, match=says):
        store.promote(spoiled(tmp_path / "b", value), force=force)
    assert store.versions("digits-gan") == [1]
    assert store.aliases("digits-gan") == {"champion": 1}


def test_a_trial_has_a_version_and_a_share_until_it_ends(store, make_bundle):
    store.promote(make_bundle("a", 20.0, seed=1))
    assert store.canary("digits-gan") is None
    assert store.promote(make_bundle("b", 19.0, seed=2), alias="canary", share=0.1) == 2
    assert store.canary("digits-gan") == (2, 0.1)
    assert store.promote(make_bundle("b", 19.0, seed=2), alias="canary", share=0.5) == 2
    assert store.canary("digits-gan") == (2, 0.5)
    assert store.aliases("digits-gan") == {"canary": 2, "champion": 1}
    assert store.rollback("digits-gan", "canary") == 2
    assert store.canary("digits-gan") is None
    assert store.aliases("digits-gan") == {"champion": 1}
    with pytest.raises(UsageError, match="no alias 'canary'"):
        store.rollback("digits-gan", "canary")
    store.promote(make_bundle("b", 19.0, seed=2), alias="canary", share=0.5)
    assert store.canary("digits-gan") == (2, 0.5)


def test_a_trial_ends_when_its_version_becomes_the_champion(store, make_bundle):
    store.promote(make_bundle("a", 20.0, seed=1))
    store.promote(make_bundle("b", 19.0, seed=2), alias="canary", share=0.5)
    store.promote(make_bundle("c", 18.0, seed=3))
    assert store.canary("digits-gan") == (2, 0.5), "another's promotion ends no trial"
    store.promote(store.bundle("digits-gan", 2), force=True)
    assert store.canary("digits-gan") is None


def test_who_is_worse_than_the_champion_is_not_tried_on_requests(store, make_bundle):
    store.promote(make_bundle("a", 20.0, seed=1))
    with pytest.raises(UsageError, match=r"worse than digits-gan:1 \(champion\)"):
        store.promote(make_bundle("b", 25.0, seed=2), alias="canary", share=0.5)
    assert store.promote(make_bundle("b", 25.0, seed=2), alias="canary", share=0.5, force=True) == 2


@pytest.mark.parametrize(
    ("alias", "share"),
    [("canary", 0.0), ("canary", -0.1), ("canary", 1.1), ("canary", float("nan")),
     ("canary", None), ("champion", 0.5)],
)  # fmt: skip
def test_shares_that_make_no_sense_are_refused(store, make_bundle, alias, share):
    with pytest.raises(UsageError, match="makes no sense"):
        store.promote(make_bundle("a"), alias=alias, share=share)
    assert store.names() == []


def test_readers_never_see_half_a_move(tmp_path):
    folder, done, seen = tmp_path / "champion", threading.Event(), []

    def read() -> None:
        while not done.is_set():
            move = last(folder)
            if move is not None:
                moves = history(folder)
                assert [m.version for m in moves] == [*range(1, len(moves) + 1)]
                seen.append(move.version)
        done_reading.append(True)

    done_reading: list[bool] = []
    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(60):
        compare_and_set(folder, number + 1, "promote", expected_moves=number, share=0.5)
    while (not seen or max(seen) < 60) and all(reader.is_alive() for reader in readers):
        done.wait(0.001)
    done.set()
    for reader in readers:
        reader.join()
    assert done_reading == [True] * 3


def test_logs_from_before_there_were_trials_are_read(tmp_path):
    folder = tmp_path / "champion"
    compare_and_set(folder, 3, "promote", expected_moves=0)
    written = json.loads((folder / "000001.json").read_text())
    assert set(written) == {"version", "action", "time"}
    assert last(folder).share is None
