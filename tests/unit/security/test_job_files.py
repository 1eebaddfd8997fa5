"""A job file is data: nothing in it is run, imported, expanded without end or followed outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distgen.cli.kinds import read_job
from distgen.core.config import override
from distgen.core.errors import UsageError
from tests.unit.security.conftest import Attack

SOUND = """
kind: train
name: mine
data: {shards: shards/digits}
model: {family: vae}
training: {images: 1000}
"""


def refused(attack: Attack, text: str, *overrides: str) -> str:
    """The message of the refusal, which names the file."""
    file = attack.inside / "job.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_job(str(file), overrides)
    assert "job.yaml" in str(caught.value)
    return str(caught.value)


def test_the_sound_file_of_these_tests_is_read(attack: Attack) -> None:
    file = attack.inside / "job.yaml"
    file.write_text(SOUND)
    assert read_job(str(file), []).name == "mine"


def test_a_tag_that_calls_is_refused_by_its_name(attack: Attack) -> None:
    text = refused(attack, f"{SOUND}storage: {attack.yaml_call}\n")
    assert "python/object/apply:os.mkdir" in text


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object/new:os.mkdir [x]",
        "!!python/object:os.mkdir {}",
        "!<tag:yaml.org,2002:python/object/apply:os.getcwd> []",
        "!anything x",
    ],
)
def test_every_tag_that_is_no_plain_type_is_refused(tag: str, attack: Attack) -> None:
    assert "could not determine a constructor" in refused(attack, f"{SOUND}storage: {tag}\n")


def test_a_tag_in_an_override_is_refused(attack: Attack) -> None:
    with pytest.raises(UsageError, match=r"training\.seed"):
        override({}, [f"training.seed={attack.yaml_call}"])


def test_a_billion_laughs_are_refused_at_the_first(attack: Attack) -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for level in range(1, 5):  # enough: the first alias is one too many
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    assert "aliases are not allowed" in refused(attack, "\n".join(lines))


def test_a_merge_key_is_an_alias_like_any_other(attack: Attack) -> None:
    text = refused(attack, "base: &base {kind: train}\nmore:\n  <<: *base\n")
    assert "aliases are not allowed" in text


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_nesting_without_end_is_refused(opening: str, attack: Attack) -> None:
    assert "recursion" in refused(attack, "a: " * (opening == "[") + opening * 20_000)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "os.system"),
        ("model.family", "os.system"),
        ("model.family", "distgen.models.gan.GAN"),
        ("objective.kind", "builtins.eval"),
        ("model._target_", "os.system"),
        ("model.class_path", "os.system"),
        ("training.callbacks", "[os.system]"),
        ("evaluation.extractors", "[os.system]"),
        ("training.precision", "__import__('os')"),
    ],
)
def test_an_import_path_is_an_unknown_name(key: str, value: str, attack: Attack) -> None:
    file = attack.inside / "job.yaml"
    file.write_text(SOUND)
    with pytest.raises(UsageError) as caught:
        read_job(str(file), [f"{key}={value}"])
    assert key.rpartition(".")[2] in str(caught.value)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "..", ".", "a\\b"])
def test_a_name_stays_in_the_storage(name: str, attack: Attack) -> None:
    assert "name" in refused(attack, SOUND.replace("mine", f"'{name}'"))


@pytest.mark.parametrize(
    "value", [".nan", ".inf", "-1", "1e400", "0x7fffffffffffffffffffffff.5", "[]", "{}", "1_0_x"]
)
def test_a_length_is_a_plain_number(value: str, attack: Attack) -> None:
    assert "training.images" in refused(attack, SOUND.replace("1000", value))


def test_what_is_no_file_is_not_opened(attack: Attack) -> None:
    pipe, link = attack.inside / "pipe.yaml", attack.inside / "link.yaml"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for path in (pipe, link, attack.inside):
        with pytest.raises(UsageError, match="no job file"):
            read_job(str(path), [])


def test_shards_that_are_a_command_are_a_path_that_is_not_there(attack: Attack) -> None:
    from distgen.data import open_shard_set

    for url in (f"pipe:{attack.shell}", f"pipe://{attack.shell}", f"| {attack.shell}"):
        with pytest.raises(UsageError):
            open_shard_set(url, "train")
    assert not Path(f"pipe:{attack.shell}").exists()


@pytest.mark.parametrize("url", ["s3://KEY:hidden@bucket/x", "https://me:hidden@example.org/x"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str, attack: Attack) -> None:
    for key in ("storage", "data.shards"):
        file = attack.inside / "job.yaml"
        file.write_text(SOUND)
        with pytest.raises(UsageError) as caught:
            read_job(str(file), [f"{key}={url}"])
        assert key in str(caught.value)
        assert "environment" in str(caught.value)
        assert "hidden" not in str(caught.value)
