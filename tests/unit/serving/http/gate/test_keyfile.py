"""Keys in a file: shown once, kept as hashes, private, and never half written."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from distgen.core.errors import DataError, DistgenError, UsageError
from distgen.serving.http.gate import keyfile
from distgen.serving.http.gate.keyfile import KEY_PREFIX, add, read, revoke
from distgen.serving.http.gate.keyring import LOOK_EVERY_S, Allowance, Keyring


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "keys.json"


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_key_is_found_by_itself_alone_and_is_nowhere_in_the_file(path: Path):
    keys = {name: add(path, name, ["generate"], 60) for name in ("alice", "bob")}
    kept = read(path)
    for name, key in keys.items():
        assert key.startswith(KEY_PREFIX)
        assert len(key) == len(KEY_PREFIX) + 43  # 256 bits
        found = kept.find(key)
        assert found is not None
        assert (found.name, found.per_minute) == (name, 60)
        for secret in (key, key.removeprefix(KEY_PREFIX)):
            assert secret not in path.read_text()
        for wrong in (key[:-1], key + "A", key.upper(), key + "A" * 10_000, found.sha256, "", "é"):
            assert kept.find(wrong) is None
    assert len({key.salt for key in kept.keys}) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_revoked_key_is_gone_and_the_others_stay(path: Path):
    gone, stays = add(path, "gone"), add(path, "stays")
    revoke(path, "gone")
    assert read(path).find(gone) is None
    assert read(path).find(stays) is not None
    with pytest.raises(UsageError, match="did you mean 'stays'"):
        revoke(path, "stay")
    assert add(path, "gone") != gone


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "taken"}, "already"),
        ({"name": ""}, "cannot be called"),
        ({"name": "a b"}, "cannot be called"),
        ({"name": "a\nb"}, "cannot be called"),
        ({"name": "-a"}, "cannot be called"),
        ({"name": "a" * 65}, "cannot be called"),
        ({"scopes": ["generat"]}, "did you mean 'generate'"),
        ({"per_minute": 0}, "rate"),
    ],
)
def test_keys_that_cannot_be_are_refused_and_change_nothing(path: Path, wrong, said):
    add(path, "taken")
    before = path.read_bytes()
    with pytest.raises(UsageError, match=said):
        add(path, **({"name": "new"} | wrong))
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o620])
def test_a_file_that_others_may_use_is_refused(path: Path, mode):
    add(path, "alice")
    path.chmod(mode)
    with pytest.raises(UsageError, match="Others than its owner") as error:
        read(path)
    assert f"chmod 600 {path}" in str(error.value)
    path.chmod(0o400)
    assert read(path).keys


@pytest.mark.parametrize(
    ("owner", "mode", "is_fine"),
    [(0, 0o440, True), (0, 0o400, True), (0, 0o444, False), (0, 0o460, False), (77, 0o600, False)],
)
def test_a_secret_that_root_mounted_may_be_read_by_the_group(
    path: Path, monkeypatch: pytest.MonkeyPatch, owner, mode, is_fine
):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    status = os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, 1000, 10, 0, 0, 0))
    if is_fine:
        keyfile._require_private(status, path)
    else:
        with pytest.raises(UsageError):
            keyfile._require_private(status, path)


def broken(path: Path) -> dict[str, bytes]:
    """Content that is not a file of keys."""
    good = json.loads(path.read_text())
    (key,) = good["keys"]

    def with_key(**changes: Any) -> bytes:
        return json.dumps({**good, "keys": [{**key, **changes}]}).encode()

    return {
        "empty": b"",
        "half": path.read_bytes()[:-20],
        "a list": b"[]",
        "later version": json.dumps({**good, "version": 2}).encode(),
        "unknown scope": with_key(scopes=["root"]),
        "no scope": with_key(scopes=[]),
        "unknown field": with_key(expires="never"),
        "short hash": with_key(sha256="ab"),
        "no rate": with_key(per_minute=0),
        "same name twice": json.dumps({**good, "keys": [key, key]}).encode(),
        "not text": b"\xff\xfe\x00",
    }


BROKEN = (
    "empty",
    "half",
    "a list",
    "later version",
    "unknown scope",
    "no scope",
    "unknown field",
    "short hash",
    "no rate",
    "same name twice",
    "not text",
)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_does_not_start_and_is_not_written_over(path: Path, kind):
    add(path, "alice")
    content = broken(path)[kind]
    path.write_bytes(content)
    for use in (lambda: Keyring(path), lambda: add(path, "bob"), lambda: revoke(path, "alice")):
        with pytest.raises(DataError, match="not a file of keys") as error:
            use()
        assert "last good copy" in str(error.value)
    assert path.read_bytes() == content


def test_no_file_is_no_keys(path: Path):
    with pytest.raises(UsageError, match="endpoint keys add"):
        Keyring(path)


def test_many_who_add_at_once_lose_no_key(path: Path):
    threads = [threading.Thread(target=add, args=(path, f"key{i}")) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read(path).keys} == {f"key{i}" for i in range(12)}


def test_a_running_endpoint_sees_keys_come_and_go(path: Path):
    clock = Clock()
    alice = add(path, "alice")
    ring = Keyring(path, clock)
    bob = add(path, "bob")
    assert ring.find(bob) is None
    clock.now_s += LOOK_EVERY_S
    assert ring.find(bob) is not None
    revoke(path, "alice")
    clock.now_s += LOOK_EVERY_S
    assert ring.find(alice) is None
    assert ring.find(bob) is not None


@pytest.mark.parametrize("kind", [*BROKEN, "mode", "gone"])
def test_a_file_that_breaks_keeps_the_last_good_keys_and_says_so(path: Path, caplog, kind):
    clock = Clock()
    alice = add(path, "alice")
    ring = Keyring(path, clock)
    good = path.read_bytes()
    if kind == "gone":
        path.unlink()
    elif kind == "mode":
        path.chmod(0o644)
    else:
        path.write_bytes(broken(path)[kind])
    for _ in range(3):
        clock.now_s += LOOK_EVERY_S
        assert ring.find(alice) is not None
    said = [record for record in caplog.records if "last good keys" in record.getMessage()]
    assert len(said) == 1  # and not once for each request
    assert str(path) in ring.problem
    path.write_bytes(good)
    path.chmod(0o600)
    revoke(path, "alice")
    clock.now_s += LOOK_EVERY_S
    assert ring.find(alice) is None
    assert ring.problem == ""


def test_an_allowance_fills_steadily_and_no_higher_than_a_minutes_worth():
    allowance = Allowance(60, now_s=0.0)
    assert allowance.take(60, 0.0) == 0.0
    assert allowance.take(16, 0.0) == pytest.approx(16.0)
    assert allowance.take(16, 15.0) == pytest.approx(1.0)
    assert allowance.take(16, 16.0) == 0.0
    assert allowance.take(60, 10_000.0) == 0.0
    assert allowance.take(1, 10_000.0) == pytest.approx(1.0)


def test_every_key_has_its_own_allowance_and_keeps_it_when_the_file_changes(path: Path):
    clock = Clock()
    add(path, "alice", per_minute=10)
    add(path, "bob", per_minute=10)
    add(path, "carol")
    ring = Keyring(path, clock)
    alice, bob, carol = read(path).keys
    assert ring.take(alice, 10) == 0.0
    assert ring.take(alice, 1) > 0
    assert ring.take(bob, 10) == 0.0
    assert ring.take(alice, 11) == float("inf")
    assert ring.take(carol, 10**9) == 0.0
    revoke(path, "bob")
    clock.now_s += LOOK_EVERY_S
    ring.find("")
    assert ring.take(alice, 2) > 0


def test_errors_do_not_repeat_what_a_broken_file_holds(path: Path):
    key = add(path, "alice")
    path.write_text(json.dumps({"keys": [{"name": key}]}))
    with pytest.raises(DistgenError) as error:
        read(path)
    assert key not in str(error.value)
