"""`distgen data ...`: what is printed, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from distgen.cli.data import app
from distgen.core.errors import DistgenError

from .conftest import Made


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def code_and_text(result: Result) -> tuple[int, str]:
    """What `distgen` makes of it: the error's own exit code and its text on stderr."""
    if isinstance(result.exception, DistgenError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(6):
        folder = tmp_path / "pictures" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / f"{number}.png")
    return tmp_path / "pictures"


def test_build_inspect_verify_preview(pictures: Path, tmp_path: Path) -> None:
    (pictures / "cat" / "broken.png").write_text("x")
    result = run("build", pictures, tmp_path / "set", "--size", "12x10", "--fit", "pad")
    assert result.exit_code == 0, result.exception
    assert "6 pictures of 12x10 RGB, 2 classes" in result.output
    assert "1 files could not be used" in result.output
    inspected = json.loads(run("inspect", tmp_path / "set", "--json").stdout)["sets"][0]
    assert inspected["classes"] == {"cat": 3, "dog": 3}
    assert (inspected["height"], inspected["width"]) == (10, 12)
    assert "12x10 RGB" in run("inspect", tmp_path / "set").output
    verified = run("verify", tmp_path / "set")
    assert verified.exit_code == 0
    assert "ok" in verified.output
    assert run("preview", tmp_path / "set", "--out", tmp_path / "p.png").exit_code == 0
    Image.open(tmp_path / "p.png").verify()


def test_build_speaks_json(pictures: Path, tmp_path: Path) -> None:
    result = run("build", pictures, tmp_path / "set", "--split", "0.5", "--json")
    report = json.loads(result.stdout)
    assert report["samples"] == 6
    assert [each["split"] for each in report["sets"]] == ["train", "test"]
    both = json.loads(run("inspect", tmp_path / "set", "--json").stdout)
    assert [each["split"] for each in both["sets"]] == ["train", "test"]


def test_verify_exits_2_and_names_what_changed(made: Made) -> None:
    path = made.shard_set.shard(0).local
    assert path is not None
    data = bytearray(path.read_bytes())
    data[1600] ^= 8
    path.write_bytes(data)
    result = run("verify", made.folder, "--json")
    code, text = code_and_text(result)
    assert code == 2
    assert path.name in text
    assert "sample-00000" in text
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert report["sets"][0]["problems"][0]["key"] == "sample-00000"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "fashion-mnits", "{tmp}/set"), "did you mean 'fashion-mnist'"),
        (("build", "digits", "{tmp}/set", "--size", "big"), "'big' is not a size"),
        (("build", "digits", "{tmp}/set", "--size", "-4"), "'-4' is not a size"),
        (("build", "digits", "{tmp}/set", "--mode", "grey"), "choices: L, RGB"),
        (("build", "digits", "{set}"), "--overwrite"),
        (("build", "digits", "{tmp}/set", "--label-key", "x"), "--label-key is for tars"),
        (("build", "{set}", "{tmp}/set", "--image-column", "x"), "the source is a shard set"),
        (("build", "{tmp}", "{tmp}/set"), "There is no file"),
        (("build", "digits", "{tmp}/set", "--address", "127.0.0.1:9"), "No Ray cluster answers"),
        (("inspect", "{tmp}/nothing"), "There is no shard set"),
        (("verify", "{tmp}"), "is a folder without"),
        (("preview", "{set}", "--class", "z"), "no class 'z'"),
        (("preview", "{set}", "--columns", "0"), "columns"),
        (("build", "digits", "{tmp}/set", "--colour", "x"), "No such option"),
    ],
)
def test_bad_requests_exit_2_and_name_the_remedy(
    made: Made, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    places = {"tmp": root, "set": made.folder}
    result = run(*(argument.format(**places) for argument in arguments))
    code, text = code_and_text(result)
    assert code == 2
    assert words in text


def test_the_cluster_of_the_environment_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    code, text = code_and_text(run("build", "digits", tmp_path / "set"))
    assert code == 2
    assert "No Ray cluster answers" in text


def test_help_names_all_kinds_of_sources() -> None:
    text = " ".join(run("build", "--help").output.split())
    for kind in ("digits", "Parquet file", "WebDataset tar", "shard set", "IDX", "pictures"):
        assert kind in text


def test_help_explains_every_option() -> None:
    for command in ("build", "inspect", "verify", "preview"):
        result = run(command, "--help")
        assert result.exit_code == 0
