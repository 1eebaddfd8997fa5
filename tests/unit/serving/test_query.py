"""`distgen query`: what it can ask for, and whether saved pictures come back."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgen.core.errors import UsageError
from distgen.core.ports import free_port
from distgen.serving.client import Client
from distgen.serving.http.app import create_app
from distgen.serving.http.gate import keyfile
from distgen.serving.http.gate.keyring import Keyring
from distgen.serving.making.shelf import Shelf
from tests.unit.serving.http.test_remakes import HOLE, IMAGE, MASK, PIXELS
from tests.unit.serving.making.bundles import shelf_of, store_of
from tests.unit.serving.servers import served
from tests.unit.serving.test_client import query


@pytest.fixture(scope="module")
def url(make_engine) -> Iterator[str]:
    with served(create_app(Shelf([make_engine("vae")]))) as url:
        yield url


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "image.png").write_bytes(IMAGE)
    (tmp_path / "mask.png").write_bytes(MASK)
    return str(tmp_path / "image.png"), str(tmp_path / "mask.png")


def asked(url: str, tmp_path: Path, *arguments: str, out: str = "grid.png") -> dict:
    place = tmp_path / out
    result = query("--url", url, "--out", str(place), "--json", *arguments)
    assert result.exit_code == 0, result.exception
    return json.loads(result.output)


def test_latents_of_a_file_are_asked_for(url, tmp_path: Path):
    rows = np.random.default_rng(0).standard_normal((3, 8))
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows.tolist()))
    by_npy = asked(url, tmp_path, "--latents", str(tmp_path / "rows.npy"))
    by_json = asked(url, tmp_path, "--latents", str(tmp_path / "rows.json"))
    assert by_npy["sha256"] == by_json["sha256"]
    assert len(by_npy["sha256"]) == 3


def test_a_way_is_pictures_or_one_clip(url, tmp_path: Path):
    way = asked(url, tmp_path, "--seed", "1", "--interpolate", "2,3", "-n", "5")
    seeds = [asked(url, tmp_path, "--seed", s, "-n", "1")["sha256"][0] for s in ("1", "2", "3")]
    assert way["sha256"][::2] == seeds
    asked(url, tmp_path, "--seed", "1", "--interpolate", "2", "--steps", "6", out="way.gif")
    with Image.open(tmp_path / "way.gif") as image:
        assert image.format == "GIF"


def test_pictures_are_varied_and_edited(url, tmp_path: Path, pictures):
    image, mask = pictures
    each = str(tmp_path / "each")
    varied = asked(url, tmp_path, "--vary", image, "-n", "2", "--strength", "0.3")
    assert len(set(varied["sha256"])) == 2
    edited = asked(url, tmp_path, "--edit", image, "--mask", mask, "-n", "2", "--each", each)
    for file in edited["files"]:
        pixels = np.asarray(Image.open(file))
        np.testing.assert_array_equal(pixels[~HOLE], PIXELS[~HOLE])


SAVED = {
    "grid": ("grid.png", ["-n", "4"]),
    "clip": ("way.gif", ["--interpolate", "9", "--steps", "4"]),
    "pictures-that-play": ("a.webp", ["-n", "3", "--temperature", "0.5"]),
    "way": ("grid.png", ["--interpolate", "9", "-n", "4", "--truncation", "0.7"]),
}


@pytest.mark.parametrize("name", SAVED)
def test_what_was_saved_comes_back(url, tmp_path: Path, name):
    out, arguments = SAVED[name]
    each = tmp_path / "each"
    printed = asked(url, tmp_path, *arguments, "--each", str(each), out=out)
    (tmp_path / "printed.json").write_text(json.dumps(printed))
    for file in (tmp_path / out, tmp_path / "printed.json", *map(Path, printed["files"])):
        result = query("--url", url, "--verify", str(file))
        assert result.exit_code == 0, result.output
        assert "the same" in result.output
        assert "d" * 12 in result.output


def test_a_saved_picture_is_the_endpoints_bytes_and_a_record(url, tmp_path: Path):
    each = tmp_path / "each"
    (file,) = asked(url, tmp_path, "-n", "1", "--seed", "4", "--each", str(each))["files"]
    assert Image.open(file).text["distgen"].startswith("{")
    served_file = Client(url).generate(seed=4).files[0]
    data = Path(file).read_bytes()
    assert data.startswith(served_file[:-12])
    np.testing.assert_array_equal(Image.open(file), Image.open(io.BytesIO(served_file)))


def test_edits_are_verified_with_the_pictures_they_were_made_of(url, tmp_path: Path, pictures):
    image, mask = pictures
    asked(url, tmp_path, "--edit", image, "--mask", mask, "-n", "2")
    grid = str(tmp_path / "grid.png")
    again = query("--url", url, "--verify", grid, "--edit", image, "--mask", mask)
    assert again.exit_code == 0, again.output
    without = query("--url", url, "--verify", grid).exception
    assert isinstance(without, UsageError)
    assert "--edit PICTURE --mask MASK" in str(without)


def test_an_endpoint_with_keys_is_asked_again_with_the_key(
    tmp_path: Path, make_engine, monkeypatch
):
    keys = tmp_path / "keys.json"
    text = keyfile.add(keys, "me")
    with served(create_app(Shelf([make_engine("vae")]), keys=Keyring(keys))) as locked:
        monkeypatch.setenv("DISTGEN_API_KEY", text)
        asked(locked, tmp_path, "-n", "2")
        assert query("--url", locked, "--verify", str(tmp_path / "grid.png")).exit_code == 0
        monkeypatch.delenv("DISTGEN_API_KEY")
        refused = query("--url", locked, "--verify", str(tmp_path / "grid.png"))
        assert "key" in str(refused.exception)
        (tmp_path / "key").write_text(text)
        (tmp_path / "key").chmod(0o600)
        by_file = ("--key-file", str(tmp_path / "key"))
        again = query("--url", locked, "--verify", str(tmp_path / "grid.png"), *by_file)
        assert again.exit_code == 0


def test_while_a_trial_runs_the_weights_that_made_a_picture_are_asked_again(tmp_path: Path):
    store = store_of(tmp_path, 2)
    store.promote(store.bundle("digits", 2), "digits", force=True, alias="canary", share=1.0)
    shelf = shelf_of(store, "digits")
    asyncio.run(shelf.look())
    with served(create_app(shelf)) as url:
        asked(url, tmp_path, "-n", "1", "--model", "digits@champion", out="old.png")
        record = asked(url, tmp_path, "-n", "1", "--model", "digits")
        assert (
            record["digest"]
            != json.loads(
                query("--url", url, "--verify", str(tmp_path / "old.png"), "--json").output
            )["digest"]
        )
        for name in ("old.png", "grid.png"):
            assert query("--url", url, "--verify", str(tmp_path / name)).exit_code == 0, name


def test_what_differs_is_said_and_the_exit_code_is_1(url, tmp_path: Path, make_engine):
    asked(url, tmp_path, "-n", "3")
    grid = tmp_path / "grid.png"
    with served(create_app(Shelf([make_engine("lstm-vae")]))) as other:
        result = query("--url", other, "--verify", str(grid), "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert (found["same"], found["differing"]) == (False, [0, 1, 2])
    assert "3 of 3 pictures came back as other bytes." in found["problems"]
    engine = make_engine("vae")
    engine.info = type(engine.info)(**{**vars(engine.info), "digest": "e" * 64})
    with served(create_app(Shelf([engine]))) as other:
        result = query("--url", other, "--verify", str(grid))
    assert result.exit_code == 1
    assert "Another model answers: eeeeeeeeeeee" in result.output
    data = bytearray(grid.read_bytes())
    data[100] ^= 1
    grid.write_bytes(bytes(data))
    result = query("--url", url, "--verify", str(grid))
    assert result.exit_code == 1
    assert "changed after it was saved" in result.output


@pytest.mark.parametrize(
    ("content", "cause"),
    [(IMAGE, "No such file"), (b"{}", "no record"), (b"", "No such file"), (b"{", "no record")],
)
def test_files_without_a_record_are_refused(url, tmp_path: Path, content, cause):
    (tmp_path / "a").write_bytes(content)
    error = query("--url", url, "--verify", str(tmp_path / "a")).exception
    assert isinstance(error, UsageError)
    assert cause.lower() in str(error).lower()
    missing = query("--url", url, "--verify", str(tmp_path / "b")).exception
    assert isinstance(missing, UsageError)


WRONG = [
    (("--latents", "no-such.npy"), "cannot be read"),
    (("--latents", __file__), "holds no latents"),
    (("--interpolate", "here"), "is no seed"),
    (("--steps", "4"), "--interpolate SEED"),
    (("--mask", "a.png"), "--edit PICTURE"),
    (("--strength", "0.5"), "--vary PICTURE"),
    (("--vary", "a.png", "--edit", "b.png"), "not both"),
    (("--vary", "a.png", "--truncation", "0.5"), "leave --truncation out"),
    (("--vary", "no-such.png"), "cannot be read"),
    (("sneaker", "--vary", "a.png"), "leave 'sneaker' out"),
    (("--temperature", "nan"), "from 0 to 2"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG)
def test_options_that_make_no_request_are_refused_before_anything_is_asked(arguments, says):
    error = query("--url", f"http://127.0.0.1:{free_port()}", *arguments).exception
    assert isinstance(error, UsageError)
    assert says in str(error)
