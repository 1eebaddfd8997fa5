"""The job files in jobs/ are jobs, and say how to make the data that they train on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distgen.cli.kinds import read_job
from distgen.core.spec import ImageSpec
from distgen.training.sizes import checkpoint_bytes, sums_of_step

JOBS = Path(__file__).parents[3] / "jobs"
CLASSES = tuple("0123456789")
SPECS = {
    "digits": ImageSpec(height=8, width=8, mode="L", classes=CLASSES),
    "fashion-mnist": ImageSpec(height=28, width=28, mode="L", classes=CLASSES),
    "moving-fashion-mnist": ImageSpec(height=64, width=64, mode="L", frames=20),
    "stacked-digits": ImageSpec(height=16, width=16, mode="RGB"),
    "~/Pictures/shoes": ImageSpec(height=64, width=64, mode="RGB", classes=("boot", "sandal")),
}
TRAIN = sorted(path.name for path in JOBS.glob("*.yaml") if "kind: train" in path.read_text())
OTHERS = sorted({path.name for path in JOBS.glob("*.yaml")} - set(TRAIN))


@pytest.mark.parametrize("name", TRAIN)
def test_a_recipe_trains_on_what_its_header_says_how_to_make(name):
    path = JOBS / name
    job = read_job(str(path), [], "train")
    assert job.name == path.stem
    source, shards = re.findall(
        r"^# Make the data .*data build (\S+) (\S+)", path.read_text(), re.M
    )[0]
    assert job.data.shards == shards
    assert sums_of_step(job, SPECS[source])
    assert checkpoint_bytes(job, SPECS[source]) > 0
    assert job.training.batch_size % job.scaling.most == 0


@pytest.mark.parametrize("name", OTHERS)
def test_searches_and_endpoints_are_read_by_their_kind(name):
    assert read_job(str(JOBS / name), []).kind in {"tune", "serve"}


@pytest.mark.parametrize("side", [16, 28, 32, 96, 256])
@pytest.mark.parametrize("conditional", [False, True])
def test_own_pictures_may_have_any_size_and_be_made_by_class(side, conditional):
    spec = SPECS["~/Pictures/shoes"].model_copy(update={"height": side, "width": side})
    job = read_job(str(JOBS / "pictures-gan.yaml"), [f"model.conditional={conditional}".lower()])
    assert sums_of_step(job, spec)
