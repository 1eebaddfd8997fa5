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


GAN = {"family": "gan", "minibatch_deviation": True}


def test_a_batch_that_would_divide_a_group_is_refused_with_sizes_that_do_not():
    training = {"images": 1000, "batch_size": 32, "accumulate": 3}
    text = refusal(model=GAN, training=training, scaling={"workers": 2})
    assert "scaling.workers 2 times training.accumulate 3 times groups of 4" in text
    assert "24 or 48" in text
    fitting = {**training, "batch_size": 48}
    parse(TrainJob, raw(model=GAN, training=fitting, scaling={"workers": 2}), "x")
    parse(TrainJob, raw(model={"family": "gan"}, training={"images": 9, "batch_size": 5}), "x")


def test_a_learning_rate_that_would_move_twice_is_refused():
    training = {"images": 1000, "learning_rate": {"start": 1e-3, "end": 1e-4, "images": 500}}
    parse(TrainJob, raw(training=training), "x")
    text = refusal(training={**training, "schedule": "cosine"})
    assert "learning_rate moves by itself" in text


def test_a_job_with_schedules_reads_back_as_itself():
    moving = {"start": 0.9, "end": 0.99, "images": 500}
    training = {
        "images": 1000,
        "learning_rate": moving,
        "betas": [0.0, moving],
        "ema_half_life": {"start": 500, "end": 5000, "images": 500},
    }
    objective = {"kind": "relativistic", "r1": moving, "augmentation": {"flip": True}}
    job = parse(TrainJob, raw(model=GAN, training=training, objective=objective), "x")
    assert parse(TrainJob, parse_yaml(dump_yaml(job), "y"), "y") == job


def test_without_a_family_only_that_is_said():
    assert "1 problem" in refusal(model={"family": "rrvae"})
    assert "1 problem" in refusal(model=None)
    without = {key: value for key, value in raw().items() if key != "model"}
    with pytest.raises(UsageError, match=r"(?s)1 problem.*model: this key is required"):
        parse(TrainJob, without, "x.yaml")


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        (-1, "greater than or equal to 0"),
        ([2, 1], "the smaller number comes first"),
        ([0, 2], "greater than 0"),
        ("many", "valid integer"),
    ],
)
def test_wrong_numbers_of_workers_are_told_once_under_the_key_as_written(workers, said):
    text = refusal(scaling={"workers": workers})
    assert "1 problem" in text
    assert "    scaling.workers" in text
    assert said in text
    assert "range" not in text.split("try:")[0]


def test_a_number_that_float32_does_not_hold_is_refused():
    assert "objective.free_bits" in refusal(objective={"kind": "elbo", "free_bits": 1e300})
    assert "training.learning_rate" in refusal(training={"images": 10, "learning_rate": 1e31})


@pytest.mark.parametrize(("text", "meant"), [("on", "on"), ("off", "off"), ("auto", "auto")])
def test_compiling_is_said_in_a_file_as_the_schema_says_it(text, meant):
    written = raw() | parse_yaml(f"training: {{images: 10, batch_size: 5, compile: {text}}}", "x")
    assert parse(TrainJob, written, "x").training.compile == meant
