from __future__ import annotations

import pytest

from distgen.core.config import Config, parse
from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.models import FAMILIES
from distgen.objectives import KINDS, ObjectiveConfig, build_objective, default_objective

SPEC = ImageSpec(height=16, width=16, mode="L")


class Job(Config):
    objective: ObjectiveConfig


def test_every_kind_can_be_named_in_a_job_file_and_trains_a_family_that_exists():
    for name, kind in KINDS.items():
        config = parse(Job, {"objective": {"kind": name}}, "test").objective
        assert isinstance(config, kind)
        assert set(kind.families) <= set(FAMILIES)


def test_every_family_has_a_default_that_fits_it():
    for family in FAMILIES:
        objective = default_objective(family)
        assert objective is not None
        assert build_objective(objective, family, latent_dim=4).phases
    assert default_objective("gan") == KINDS["relativistic"]()
    assert default_objective("gam") is None


@pytest.mark.parametrize(
    ("kind", "family", "fitting"),
    [("elbo", "gan", "wgan-gp"), ("hinge", "vae", "elbo")],
)
def test_an_objective_of_another_family_is_refused_with_those_that_fit(kind, family, fitting):
    with pytest.raises(UsageError, match=kind) as caught:
        build_objective(KINDS[kind](), family, latent_dim=4)
    assert caught.value.where == "objective.kind"
    assert fitting in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"kind": "relativstic"}, "did you mean 'relativistic'"),
        ({"kind": "relativistic", "r3": 1.0}, "r3"),
        ({"kind": "elbo", "beta": -1.0}, "beta"),
        ({"kind": "hinge", "r1": "much"}, "r1"),
    ],
)
def test_impossible_settings_are_refused_by_name(raw, said: str):
    with pytest.raises(UsageError) as caught:
        parse(Job, {"objective": raw}, "test")
    assert said in str(caught.value)
