import pytest

from distgen.core.config import dump_yaml, parse, parse_yaml
from distgen.core.errors import UsageError
from distgen.training.job import TrainJob


def raw(**changes) -> dict:
    return {
        "kind": "train",
        "name": "x",
        "data": {"shards": "nowhere"},
        "model": {"family": "vae"},
        "training": {"images": 1000, "batch_size": 100},
        **changes,
    }


def refusal(**changes) -> str:
    with pytest.raises(UsageError) as caught:
        parse(TrainJob, raw(**changes), "x.yaml")
    return str(caught.value)


def test_the_objective_of_a_family_is_its_own_unless_said_otherwise():
    assert parse(TrainJob, raw(), "x").objective.kind == "elbo"
    assert parse(TrainJob, raw(model={"family": "gan"}), "x").objective.kind == "relativistic"


def test_an_objective_of_another_family_is_refused():
    text = refusal(objective={"kind": "hinge"})
    assert "'hinge'" in text
    assert "'vae'" in text


def test_a_batch_that_does_not_divide_is_refused_with_sizes_that_do():
    text = refusal(scaling={"workers": 3})
    assert "batch_size 100 does not divide by scaling.workers 3" in text
    assert "99 or 102" in text


@pytest.mark.parametrize("name", ["../up", "", "Über", "a/b", ".hidden", "x" * 80])
def test_a_name_that_could_leave_the_storage_is_refused(name):
    assert "name" in refusal(name=name)


@pytest.mark.parametrize("betas", [[0.9, 1.0], [-0.1, 0.9]])
def test_decay_rates_that_adam_would_refuse_are_refused_here(betas):
    assert "training.betas" in refusal(training={"images": 1000, "betas": betas})


def test_an_unknown_family_names_the_nearest():
    assert "did you mean 'rvae'" in refusal(model={"family": "rrvae"})


def test_a_resolved_job_reads_back_as_itself():
    job = parse(TrainJob, raw(), "x")
    assert parse(TrainJob, parse_yaml(dump_yaml(job), "y"), "y") == job
