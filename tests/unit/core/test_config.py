from typing import Annotated, Literal

import pytest
from pydantic import Field, PositiveFloat, PositiveInt

from distgen.core.config import (
    Config,
    describe,
    dump_yaml,
    flatten,
    override,
    parse,
    parse_yaml,
    read_job_file,
)
from distgen.core.errors import UsageError


class Cat(Config):
    """A cat."""

    animal: Literal["cat"] = "cat"
    whiskers: PositiveInt = 12
    """How many, on both sides."""


class Dog(Config):
    """A dog."""

    animal: Literal["dog"] = "dog"
    tricks: tuple[str, ...] = ()


class Job(Config):
    kind: Literal["walk"] = "walk"
    pet: Annotated[Cat | Dog, Field(discriminator="animal")]
    minutes: PositiveInt
    weather: Literal["sun", "rain"] = "sun"


GOOD = {"pet": {"animal": "cat"}, "minutes": 5}


def message(raw: dict) -> str:
    with pytest.raises(UsageError) as caught:
        parse(Job, raw, "walk.yaml")
    assert caught.value.exit_code == 2
    assert caught.value.where == "walk.yaml"
    return caught.value.what


def test_unknown_key_names_the_nearest_one_inside_the_chosen_variant():
    text = message({**GOOD, "pet": {"animal": "cat", "wiskers": 3}})
    assert "pet.wiskers: there is no such key" in text
    assert "did you mean 'whiskers'" in text
    assert "tricks" not in text


def test_unknown_variant_and_choice_name_the_nearest_one():
    assert "did you mean 'cat'" in message({**GOOD, "pet": {"animal": "cats"}})
    assert "did you mean 'rain'" in message({**GOOD, "weather": "rainy"})


def test_missing_wrong_and_impossible_values_are_all_listed_at_once():
    text = message({"pet": {"animal": "cat", "whiskers": -1}, "kind": "walk"})
    assert "2 problems" in text
    assert "minutes: this key is required" in text
    assert "pet.whiskers: Input should be greater than 0 (given: -1)" in text


class Speed(Config):
    metres_per_second: PositiveFloat = 1.0


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_a_number_has_to_be_finite(value: str):
    with pytest.raises(UsageError, match="metres_per_second"):
        parse(Speed, override({}, [f"metres_per_second={value}"]), "x")


def test_dump_and_parse_are_inverse():
    job = parse(Job, GOOD, "x")
    assert parse(Job, parse_yaml(dump_yaml(job), "y"), "y") == job


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x 1\nb: *x", "aliases are not allowed"),
        ("a: 1\na: 2", "given twice"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: [1", "expected"),
        ("a: {[1]: 2}", "cannot be a key"),
        ("a: 2026-99-01", "month must be in 1..12"),
        ("a: !!int x", "invalid literal"),
        ("a: !!bool x", "'x'"),
        ("a: !!timestamp x", "groupdict"),
        ("a: " + "9" * 5000, "4300"),
        ("a: " + "[" * 20_000, "recursion"),
    ],
    ids=lambda text: text[:16],
)
def test_yaml_that_could_do_harm_or_lose_a_setting_is_refused(text: str, reason: str):
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, "job.yaml")
    assert reason in str(caught.value)


def test_a_job_file_must_be_a_mapping_of_reasonable_size(tmp_path):
    with pytest.raises(UsageError, match="mapping"):
        parse_yaml("- 1", "job.yaml")
    large = tmp_path / "large.yaml"
    large.write_text("a: " + "x" * (2 << 20))
    with pytest.raises(UsageError, match="larger"):
        read_job_file(large)


def test_missing_job_file_names_the_nearest_one(tmp_path):
    (tmp_path / "fashion-gan.yaml").write_text("kind: walk")
    with pytest.raises(UsageError) as caught:
        read_job_file(tmp_path / "fashon-gan.yaml")
    assert "fashion-gan.yaml" in str(caught.value.remedy)


def test_overrides_are_yaml_values_under_dotted_keys():
    raw = override(GOOD, ["pet.whiskers=7", "weather=rain", "minutes=30"])
    job = parse(Job, raw, "x")
    assert (job.minutes, job.weather, job.pet.whiskers) == (30, "rain", 7)
    assert "whiskers" not in GOOD["pet"], "the given mapping must stay as it was"


@pytest.mark.parametrize(
    "wrong",
    ["minutes", "=5", "a..b=1", "minutes.x=1", "a=2026-99-01", "a={b: 1, b: 2}", "a=" + "[" * 9999],
    ids=lambda text: text[:16],
)
def test_malformed_overrides_are_refused(wrong: str):
    with pytest.raises(UsageError):
        override(GOOD, [wrong])


def test_describe_lists_every_key_of_every_variant():
    keys = [line.key for line in describe(Job)]
    assert keys == [
        "kind", "pet", "(cat)", "animal", "whiskers", "(dog)", "animal", "tricks",
        "minutes", "weather",
    ]  # fmt: skip
    whiskers = next(line for line in describe(Job) if line.key == "whiskers")
    assert (whiskers.default, whiskers.help) == ("12", "How many, on both sides.")


def test_flatten_gives_dotted_keys():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {
        "a.b": 1, "a.c.d": [2], "e": None,
    }  # fmt: skip
