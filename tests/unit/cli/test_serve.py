"""`distgen serve` and `distgen endpoint emit`: what they take, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from distgen.core.storage import locate
from tests.unit.cluster.rendered import ROOT
from tests.unit.serving.making.bundles import store_of


def test_emit_prints_the_config_of_a_job_file_or_of_options(distgen, tmp_path: Path) -> None:
    store = store_of(tmp_path, 1)
    file = tmp_path / "endpoint.yaml"
    file.write_text(f"kind: serve\nmodels: [digits]\nroot: {store.root}\nreplicas: [1, 2]\n")
    by_file = distgen("endpoint", "emit", str(file), "port=9000")
    by_options = distgen(
        *("endpoint", "emit", "digits", "--root", str(store.root)),
        *("--replicas", "1-2", "--port", "9000"),
    )
    assert by_file.returncode == 0, by_file.stderr
    assert by_file.stdout == by_options.stdout
    printed = yaml.safe_load(by_file.stdout)
    assert printed["http_options"]["port"] == 9000
    assert printed["applications"][0]["args"]["models"] == ["digits"]
    assert printed["applications"][0]["args"]["root"] == locate(tmp_path / "models").url


@pytest.mark.parametrize("command", [("serve",), ("endpoint", "emit")])
def test_options_beside_a_job_file_are_refused(distgen, tmp_path: Path, command) -> None:
    file = tmp_path / "endpoint.yaml"
    file.write_text("kind: serve\nmodels: [digits]\n")
    result = distgen(*command, str(file), "--port", "9000")
    assert result.returncode == 2
    assert "--port does not go with a job file" in result.stderr
    assert "port=9000" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{file}", "ports=1"), "did you mean 'port'"),
        (("{file}.yaml",), "There is no job file"),
        (("digits", "--replicas", "4-1"), "is no number of replicas"),
        (("digits", "--memory", "lots"), "'lots' is not a size"),
        (("digits",), "There is no model"),
        (("{train}",), "kind 'train', not 'serve'"),
    ],
)
def test_what_is_wrong_with_a_command_is_said(
    distgen, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:  # fmt: skip
    file = tmp_path / "endpoint.yaml"
    file.write_text("kind: serve\nmodels: [digits]\n")
    train = str(ROOT / "jobs" / "fashion-vae.yaml")
    result = distgen("endpoint", "emit", *(a.format(file=file, train=train) for a in arguments))
    assert result.returncode == 2
    assert said.lower() in result.stderr.lower()


def test_the_schema_of_serve_is_shown(distgen) -> None:
    result = distgen("config", "schema", "serve")
    assert result.returncode == 0
    assert "gpus_per_replica" in result.stdout
