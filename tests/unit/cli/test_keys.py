"""`distgen endpoint keys`, and what needs one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distgen.serving.http.gate.keyfile import read


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "my keys" / "keys.json")


def test_a_key_is_shown_once_listed_without_it_and_revoked(distgen, file: str):
    added = distgen("endpoint", "keys", "add", "alice", "--rate", "60/min", "--file", file)
    assert added.returncode == 0, added.stderr
    (key,) = (line for line in added.stdout.splitlines() if line.startswith("distgen_"))
    assert f"distgen serve MODEL --keys {file}" in added.stdout
    both = distgen(
        *("endpoint", "keys", "add", "ops", "--scope", "admin", "--scope", "generate"),
        *("--file", file, "--json"),
    )
    found = read(Path(file)).find(json.loads(both.stdout)["key"])
    assert found is not None
    assert found.scopes == ("generate", "admin")
    for arguments in ((), ("--json",)):
        listed = distgen("endpoint", "keys", "ls", "--file", file, *arguments)
        assert "alice" in listed.stdout
        assert "ops" in listed.stdout
        for secret in (key, found.sha256, found.salt):
            assert secret not in listed.stdout + listed.stderr
    assert "alice  generate  60/min" in distgen("endpoint", "keys", "ls", "--file", file).stdout
    assert distgen("endpoint", "keys", "revoke", "alice", "--file", file).returncode == 0
    again = distgen("endpoint", "keys", "revoke", "alice", "--file", file)
    assert again.returncode == 2
    assert "There is no key 'alice'" in again.stderr
    assert read(Path(file)).find(key) is None


def test_keys_are_in_the_users_configuration_unless_said_otherwise(distgen, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert distgen("endpoint", "keys", "ls").returncode == 2
    distgen("endpoint", "keys", "add", "alice")
    assert read(tmp_path / "config" / "distgen" / "keys.json").keys


@pytest.mark.parametrize("rate", ["0/min", "-1/min", "x", "1.5/min", "60/h", "60", ""])
def test_a_rate_that_cannot_be_is_refused(distgen, file: str, rate: str):
    refused = distgen("endpoint", "keys", "add", "alice", f"--rate={rate}", "--file", file)
    assert refused.returncode == 2
    assert "--rate 60/min" in refused.stderr
    assert not Path(file).exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org"])
def test_serving_to_others_is_refused_without_keys(distgen, host: str):
    for more in ((), ("--detach",)):
        refused = distgen("serve", "model", "--host", host, *more)
        assert refused.returncode == 2
        assert f"Whoever reaches {host} could use the endpoint" in refused.stderr
        assert "distgen endpoint keys add" in refused.stderr


def test_a_file_of_keys_that_opens_nothing_or_to_all_is_refused(distgen, file: str):
    missing = distgen("serve", "model", "--keys", file)
    assert "There is no file of keys" in missing.stderr
    distgen("endpoint", "keys", "add", "alice", "--file", file)
    Path(file).chmod(0o644)
    assert "chmod 600" in distgen("serve", "model", "--keys", file).stderr
    Path(file).chmod(0o600)
    assert "There is no model" in distgen("serve", "model", "--keys", file).stderr
    distgen("endpoint", "keys", "revoke", "alice", "--file", file)
    assert "nobody could use" in distgen("serve", "model", "--keys", file).stderr


def test_query_takes_its_key_from_a_file_or_the_environment_and_never_prints_it(
    distgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from distgen.cli.keys import key_to_send

    monkeypatch.delenv("DISTGEN_API_KEY", raising=False)
    assert key_to_send(None) is None
    monkeypatch.setenv("DISTGEN_API_KEY", "distgen_environment")
    assert key_to_send(None) == "distgen_environment"
    file = tmp_path / "key"
    file.write_text("distgen_file\n")
    assert key_to_send(str(file)) == "distgen_file"
    arguments = ("query", "--url", "http://127.0.0.1:9", "--out", str(tmp_path / "x.png"))
    failed = distgen(*arguments, "--key-file", str(file))
    assert "No endpoint answers" in failed.stderr
    assert "distgen_" not in failed.stdout + failed.stderr
    for content in ("", "two words"):
        file.write_text(content)
        refused = distgen(*arguments, "--key-file", str(file))
        assert refused.returncode == 2
        assert "words" not in refused.stdout + refused.stderr
    assert distgen(*arguments, "--key-file", str(tmp_path / "none")).returncode == 2
