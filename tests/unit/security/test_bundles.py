"""A model from elsewhere is numbers in a known network, or is refused; it does nothing else."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distgen.core.errors import DataError, UsageError
from distgen.core.storage import Location, locate
from distgen.registry import ModelStore, load_bundle, write_bundle
from distgen.registry.layout import MANIFEST, WEIGHTS
from tests.unit.registry.small_bundles import GAN, SPEC, card, refused, reseal, state_of
from tests.unit.security.conftest import Attack


@pytest.fixture
def made(attack: Attack) -> Location:
    """A sound bundle, to be made an evil one."""
    place = locate(attack.inside / "bundle")
    write_bundle(
        place,
        model_config=GAN,
        spec=SPEC,
        state=state_of(GAN, SPEC),
        card=card(20.0),
        samples_png=b"\x89PNG not looked at",
        name="digits-gan",
        images_seen=1280,
    )
    return place


def test_the_sound_bundle_of_these_tests_is_loaded(made: Location) -> None:
    reseal(made)
    assert load_bundle(made).name == "digits-gan"


def test_a_pickle_in_place_of_weights_is_not_loaded(made: Location, attack: Attack) -> None:
    whole_file = io.BytesIO()
    torch.save(state_of(GAN, SPEC), whole_file)
    for data in (attack.pickled, whole_file.getvalue()):
        (made / WEIGHTS).write_bytes(data)
        reseal(made)
        refused(made, WEIGHTS)


@pytest.mark.parametrize("name", ["config.json", "card.json"])
def test_a_pickle_in_place_of_json_is_not_loaded(name: str, made: Location, attack: Attack) -> None:
    (made / name).write_bytes(attack.pickled)
    reseal(made)
    refused(made, name)


@pytest.mark.parametrize("name", ["config.json", "card.json", MANIFEST])
def test_json_without_end_is_refused(name: str, made: Location, deep_json: bytes) -> None:
    (made / name).write_bytes(deep_json)
    if name != MANIFEST:
        reseal(made)
    refused(made, name)


def test_a_deep_header_of_the_weights_is_refused(made: Location) -> None:
    text = b'{"a":' * 20_000
    (made / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text)
    reseal(made)
    refused(made, WEIGHTS)


@pytest.mark.parametrize(
    "model",
    [
        {"family": "os.system"},
        {"family": "distgen.models.gan.GAN"},
        {"family": "gan", "_target_": "os.system"},
        {"family": "gan", "activation": "builtins.eval"},
        {"family": "gan", "latent_dim": "__import__('os').system('id')"},
    ],
)
def test_an_import_path_is_an_unknown_name(model: dict[str, str], made: Location) -> None:
    config = (made / "config.json").read_json()
    config["model"] = model
    (made / "config.json").write_json(config)
    reseal(made)
    refused(made, "config.json")


@pytest.mark.parametrize("size", ["NaN", "-1", "1e400", "1.5", "null", "[]"])
def test_a_size_is_a_natural_number(size: str, made: Location) -> None:
    text = (made / MANIFEST).read_text()
    number = json.loads(text)["files"]["config.json"]["bytes"]
    assert f'"bytes": {number}' in text
    (made / MANIFEST).write_text(text.replace(f'"bytes": {number}', f'"bytes": {size}'))
    refused(made, MANIFEST)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_not_read(kind: str, made: Location, attack: Attack) -> None:
    place = Path((made / "README.md").path)
    place.unlink()
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("/dev/zero")
    refused(made, "README.md")


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


EVIL: dict[str, Callable[[Attack], tuple[tarfile.TarInfo, bytes]]] = {
    "above": lambda attack: member("../outside/x", b"x"),
    "absolute": lambda attack: member(str(attack.outside / "x"), b"x"),
    "roundabout": lambda attack: member("config.json/../../outside/x", b"x"),
    "pickle": lambda attack: member("model.pkl", attack.pickled),
    "code": lambda attack: member("__init__.py", b"import os"),
    "link": lambda attack: member(
        "samples.png", type=tarfile.SYMTYPE, linkname=str(attack.outside / "secret")
    ),
    "hard link": lambda attack: member(
        "samples.png", type=tarfile.LNKTYPE, linkname=str(attack.outside / "secret")
    ),
    "folder link": lambda attack: member(
        "config.json", type=tarfile.SYMTYPE, linkname=str(attack.outside)
    ),
    "device": lambda attack: member("samples.png", type=tarfile.CHRTYPE),
    "pipe": lambda attack: member("samples.png", type=tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", EVIL)
@pytest.mark.parametrize("first", [True, False])
def test_an_exported_model_with_an_odd_member_is_refused(
    kind: str, first: bool, made: Location, attack: Attack
) -> None:
    store = ModelStore(str(attack.inside / "models"))
    path = attack.inside / "model.tar"
    store.export_archive(made, path)
    with tarfile.open(path) as archive:
        members = [(each, archive.extractfile(each).read()) for each in archive]  # type: ignore[union-attr]
    members.insert(1 if first else len(members), EVIL[kind](attack))
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(DataError) as caught:
        store.import_archive(path)
    assert str(path) in str(caught.value)
    assert store.names() == []
    assert sorted(p.name for p in attack.inside.iterdir()) == ["bundle", "model.tar", "models"]


@pytest.mark.parametrize("name", ["../outside", "/outside", "..", "a/b", "a\\b"])
def test_no_model_is_imported_under_a_name_that_leads_out(
    name: str, made: Location, attack: Attack
) -> None:
    store = ModelStore(str(attack.inside / "models"))
    path = attack.inside / "model.tar"
    store.export_archive(made, path)
    with pytest.raises(UsageError, match="name"):
        store.import_archive(path, name)
    assert store.names() == []
