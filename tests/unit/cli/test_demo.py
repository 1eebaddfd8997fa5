"""What the demo stands on, without running it (see tests/ray/test_demo.py)."""

from __future__ import annotations

import tomllib
from pathlib import Path

import distgen as package
from distgen.cli.demo import JOB_FILE, _below
from distgen.cli.kinds import read_job
from distgen.core.storage import locate

ROOT = Path(__file__).parents[3]


def test_its_job_file_is_installed_with_the_package():
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = installed["package-data"]["distgen"]
    folder = Path(package.__file__).parent
    assert JOB_FILE in [file for pattern in patterns for file in folder.glob(pattern)]
    assert JOB_FILE.read_text() == (ROOT / "jobs" / "digits-gan.yaml").read_text()


def test_it_may_be_put_into_a_folder_of_any_name(tmp_path):
    place = locate(tmp_path / "a #1 [x]: 'b'")
    job = _below(place, read_job(str(JOB_FILE), [], "train"))
    assert job.location.path == f"{place.path}/runs/digits-gan"
    assert job.data.shards == f"{place.path}/shards/digits"
