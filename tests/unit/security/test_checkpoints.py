"""A checkpoint from elsewhere gives numbers to a network, or is refused; it does nothing else."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from distgen.core.errors import DataError
from distgen.core.storage import Location, locate
from distgen.training import checkpoint
from tests.unit.security.conftest import Attack

Harm = Callable[[Path], None]


@pytest.fixture
def made(attack: Attack) -> Path:
    """A sound checkpoint, to be made an evil one."""
    return Path(checkpoint.save(locate(attack.inside), 512, _parts()).path)


def _parts() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"network": nn.Linear(4, 3)}


def reseal(folder: Path) -> None:
    """Have the manifest vouch for whatever the files hold now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        manifest["files"][name] = {"bytes": len(data), "sha256": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refused(folder: Path) -> str:
    """The message with which the load ends."""
    parts = _parts()
    before = parts["network"].weight.clone()
    with pytest.raises(DataError) as caught:
        checkpoint.load_latest(locate(folder.parent), parts, lambda *_: None)
    assert torch.equal(parts["network"].weight, before)
    assert folder.name in str(caught.value)
    return str(caught.value)


def test_the_sound_checkpoint_of_these_tests_is_loaded(made: Path) -> None:
    reseal(made)
    assert checkpoint.load_latest(locate(made.parent), _parts(), lambda *_: None) == 512


def test_a_pickle_in_place_of_weights_is_not_loaded(made: Path, attack: Attack) -> None:
    whole_file = io.BytesIO()
    torch.save({"weight": torch.zeros(3, 4)}, whole_file)
    for data in (attack.pickled, whole_file.getvalue()):
        (made / "network.safetensors").write_bytes(data)
        reseal(made)
        assert "network" in refused(made)


def test_a_pickle_in_place_of_json_is_not_loaded(made: Path, attack: Attack) -> None:
    (made / "network.json").write_bytes(attack.pickled)
    reseal(made)
    assert "network" in refused(made)


def _header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        _header(b"{}", 2**63),
        _header(b"{}", 2**26),
        _header(b'{"weight":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,4]}}'),
        _header(b'{"weight":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}') + bytes(4),
        _header(b'{"weight":{"dtype":"OBJECT","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
        _header(b'{"weight":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}') + bytes(4),
        _header(b'{"weight":' * 5_000),
    ],
    ids=["empty", "endless", "long", "terabytes", "negative", "object", "nan", "deep"],
)
def test_a_header_that_lies_is_refused(data: bytes, made: Path) -> None:
    (made / "network.safetensors").write_bytes(data)
    reseal(made)
    assert "network" in refused(made)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "os.system",
        {"$tensor": "elsewhere"},
        {"$tensor": []},
        {"$items": 1},
        {"$items": [[{"$items": []}, 1]]},
        {"$items": [["weight", {"$items": []}]]},
        {"class": "os.system"},
    ],
)
def test_json_of_another_shape_is_refused(value: object, made: Path) -> None:
    (made / "network.json").write_text(json.dumps(value))
    reseal(made)
    assert "network" in refused(made)


def test_json_without_end_is_refused(made: Path, deep_json: bytes) -> None:
    (made / "network.json").write_bytes(deep_json)
    reseal(made)
    assert "network" in refused(made)
    (made / "manifest.json").write_bytes(deep_json)
    assert "manifest cannot be read" in refused(made)


@pytest.mark.parametrize("part", ["../outside/x", "/outside/x", "a/../../outside/x", "..", ""])
def test_a_part_outside_the_checkpoint_is_refused(part: str, made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    for end in ("json", "safetensors"):
        manifest["files"][f"{part}.{end}"] = manifest["files"][f"network.{end}"]
    manifest["parts"].append(part)
    (made / "manifest.json").write_text(json.dumps(manifest))
    said = refused(made)
    assert "manifest cannot be read" in said or "/" not in part


@pytest.mark.parametrize("size", ["NaN", "Infinity", "-1", "1e400", "1.5", '"4"', "null", "true"])
def test_a_size_is_a_natural_number(size: str, made: Path) -> None:
    text = (made / "manifest.json").read_text()
    number = json.loads(text)["files"]["network.json"]["bytes"]
    (made / "manifest.json").write_text(text.replace(f'"bytes": {number}', f'"bytes": {size}'))
    refused(made)


def test_a_file_of_another_size_is_not_read_into_memory(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (made / "network.safetensors").open("r+b") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    monkeypatch.setattr(Location, "read_bytes", _read_little)
    assert "damaged" in refused(made)
    with (made / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)
    assert "larger than" in refused(made)


def _read_little(place: Location) -> bytes:
    assert place.size() < 1 << 20, "it was read whole"
    return Path(place.path).read_bytes()


@pytest.mark.parametrize("name", ["network.safetensors", "network.json", "manifest.json"])
def test_a_link_is_refused_even_to_the_right_bytes(name: str, made: Path) -> None:
    elsewhere = made.parent / "elsewhere"
    (made / name).rename(elsewhere)
    (made / name).symlink_to(elsewhere)
    assert "is a link" in refused(made)


def test_a_checkpoint_that_is_a_link_is_refused(made: Path) -> None:
    made.rename(made.parent / "elsewhere")
    made.symlink_to(made.parent / "elsewhere")
    assert "is a link" in refused(made)


def test_what_a_link_leads_to_is_not_deleted_with_old_checkpoints(
    made: Path, attack: Attack
) -> None:
    (made.parent / "000000000001").symlink_to(attack.outside)
    (made.parent / "000000000002").mkdir()
    (made.parent / "000000000002" / "x").symlink_to(attack.outside)
    checkpoint.prune(locate(made.parent), keep=1)
    assert [p.name for p in made.parent.iterdir()] == [made.name]
