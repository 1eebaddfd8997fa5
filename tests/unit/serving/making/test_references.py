"""What MODEL on a command line stands for, and what names clients may then use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distgen.core.errors import DistgenError, UsageError
from distgen.core.sizes import parse_bytes
from distgen.registry import ModelStore
from distgen.serving.making.references import Fixed, Followed, names_of, references
from tests.unit.serving.making.bundles import bundle, store_of


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return store_of(tmp_path, 2)


def test_places_and_versions_stay_and_names_and_aliases_are_followed(store, tmp_path):
    root, place = str(store.root), bundle(tmp_path / "run", name="shoes")
    found = references(["digits", "digits:2", "cats=digits@champion", place.path], root)
    assert [reference.name for reference in found] == ["digits", "digits:2", "cats", "shoes"]
    assert [type(reference) for reference in found] == [Followed, Fixed, Followed, Fixed]
    assert [r.standing().champion.version for r in found] == [1, 2, 1, None]
    assert references([place], root)[0].standing().champion.url == place.url


def test_a_model_without_a_champion_is_its_newest_until_it_has_one(store):
    archive = store.root.parent / "digits.tar"
    store.export_archive(store.bundle("digits", 1), archive)
    store.import_archive(archive, "fresh")
    (reference,) = references(["fresh"], str(store.root))
    assert reference.standing().champion.version == 1
    store.promote(store.bundle("digits", 2), "fresh")
    assert reference.standing().champion.version == 2


def test_names_of_a_followed_model(store):
    (reference,) = references(["digits"], str(store.root))
    assert set(names_of(reference, reference.standing())) == {
        "digits",
        "digits@champion",
        "digits:1",
    }
    store.promote(store.bundle("digits", 2), "digits", "canary", share=0.5, force=True)
    assert set(names_of(replace(reference, name="cats"), reference.standing())) == {
        "cats",
        "cats@champion",
        "cats@canary",
        "cats:1",
        "cats:2",
    }


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ([], "No model is named"),
        (["digit"], "did you mean 'digits'"),
        (["digits@champoin"], "did you mean 'champion'"),
        (["digits:7"], "has no version '7'"),
        (["digits", "digits@champion", "digits@champion"], "would be called 'digits@champion'"),
        (["cats=digits", "cats=digits:2"], "would be called 'cats'"),
        (["cats="], "no model 'cats='"),
        (["=digits"], "no model '=digits'"),
        (["../../etc/passwd"], "no model"),
    ],
)
def test_bad_references_are_refused_with_a_remedy(store, models, says):
    with pytest.raises(DistgenError) as caught:
        references(models, str(store.root))
    assert says in str(caught.value)
    assert caught.value.remedy


def test_an_alias_that_goes_away_is_an_error_and_not_another_model(store):
    (reference,) = references(["digits@champion"], str(store.root))
    for file in (store.root / "digits" / "aliases" / "champion").iterdir():
        file.unlink()
    with pytest.raises(UsageError, match="no alias 'champion'"):
        reference.standing()


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2**31), ("1.5 MiB", 3 << 19), ("800", 800), ("2gb", 2 * 10**9)]
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1GiB", "2 gulps", "GiB", "1e9", "nan", "1GiB2"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(text)
