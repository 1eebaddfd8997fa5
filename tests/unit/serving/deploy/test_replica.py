"""What a Serve config file gets from `import_path: distgen.serving.deploy.replica:build`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray._common.utils import import_attr
from ray.serve import Application
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

from distgen.core.errors import DataError, UsageError
from distgen.core.storage import locate
from distgen.registry import write_bundle
from distgen.serving.deploy.scaling import DEPLOYMENT
from distgen.serving.http.gate.keyfile import add
from distgen.serving.making.engine import MAX_WAITING
from tests.unit.registry.small_bundles import GAN, SPEC, state_of


def built(arguments: dict[str, Any]) -> Application:
    """As Ray Serve does it with a config file."""
    build = import_attr("distgen.serving.deploy.replica:build")
    return call_user_app_builder_with_args_if_necessary(build, arguments)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder that holds a bundle."""
    write_bundle(
        locate(tmp_path / "run" / "bundle"),
        model_config=GAN,
        spec=SPEC,
        state=state_of(GAN, SPEC),
        card=None,
        samples_png=None,
        name="small",
        images_seen=1,
    )
    return tmp_path / "run"


def test_a_serve_config_file_gets_replicas_of_the_bundle_that_it_names(run: Path) -> None:
    application = built({"model": str(run)})
    replicas = application._bound_deployment
    assert replicas.name == DEPLOYMENT
    (served,), memory, keys = replicas.init_args
    assert (served.name, served.edition.url) == ("small", locate(run / "bundle").url)
    assert (served.shape.spec, served.shape.num_classes) == (SPEC, 3)
    assert (memory, keys) == (None, None)
    # Serve itself refuses nothing that the engine has a place for.
    assert replicas.max_ongoing_requests > MAX_WAITING


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "either `model`, or `models`"),
        ({"model": "{run}", "models": ["{run}"]}, "either `model`, or `models`"),
        ({"model": "{run}", "memory": "2 gulps"}, "'2 gulps' is not a size"),
        ({"model": "{run}", "memory": "10B"}, "does not fit into 10 bytes"),
        ({"models": ["{run}", "{run}"]}, "Two models would be called 'small'"),
        ({"model": "{run}", "modle": 1}, "no such key"),
        ({"model": "{run}x"}, "There is no model"),
    ],
)
def test_wrong_args_are_refused_before_a_replica_starts(
    run: Path, arguments: dict[str, Any], said: str
) -> None:
    given = json.loads(json.dumps(arguments).replace("{run}", str(run)))
    with pytest.raises(UsageError, match=said):
        built(given)


def test_replicas_get_the_path_of_the_keys_and_a_bad_file_is_refused_before(
    run: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    add(keys, "alice")
    application = built({"model": str(run), "keys": str(keys)})
    assert application._bound_deployment.init_args[-1] == str(keys)
    keys.chmod(0o644)
    with pytest.raises(UsageError, match="Others than its owner"):
        built({"model": str(run), "keys": str(keys)})


def test_a_damaged_bundle_is_refused_before_a_replica_starts(run: Path) -> None:
    weights = run / "bundle" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError):
        built({"model": str(run)})
