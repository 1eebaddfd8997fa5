"""Job files of kind serve, and endpoints written down for a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray._common.utils import import_attr
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from distgen.cli.kinds import read_job
from distgen.core.config import parse
from distgen.core.errors import UsageError
from distgen.serving.deploy.emit import serve_config
from distgen.serving.http.gate.keyfile import add
from distgen.serving.job import ServeJob, parse_replicas, with_absolute_paths
from tests.unit.cluster.rendered import ROOT
from tests.unit.serving.making.bundles import bundle


def job_of(**fields: Any) -> ServeJob:
    return parse(ServeJob, {"models": ["a"], **fields}, "test")


@pytest.mark.parametrize(
    ("text", "replicas"), [("1", 1), ("12", 12), ("1-4", (1, 4)), (" 2-2 ", (2, 2))]
)
def test_replicas_are_a_number_or_a_range(text: str, replicas: object) -> None:
    assert parse_replicas(text) == replicas


@pytest.mark.parametrize("text", ["", "0", "0-3", "4-1", "-1", "1-", "two", "1-2-3", "1.5"])
def test_anything_else_is_no_number_of_replicas(text: str) -> None:
    with pytest.raises(ValueError, match="write 2, or 1-4"):
        parse_replicas(text)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"replicas": 0}, "replicas"),
        ({"replicas": [4, 1]}, "the first number must be the smaller one"),
        ({"replicas": [1, 2, 3]}, "replicas"),
        ({"port": 65_536}, "port"),
        ({"gpus_per_replica": -1}, "gpus_per_replica"),
        ({"memory": "2 gulps"}, "'2 gulps' is not a size"),
        ({"models": []}, "either `model`, or `models`"),
        ({"model": "b"}, "either `model`, or `models`"),
        ({"name": "../x"}, "name"),
        ({"hosts": "::1"}, "did you mean 'host'"),
    ],
)
def test_wrong_job_files_are_refused_by_name(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        job_of(**fields)
    assert said in str(refused.value)


def test_the_job_file_in_jobs_is_one() -> None:
    job = read_job(str(ROOT / "jobs" / "fashion-endpoint.yaml"), ["replicas=2"], "serve")
    assert job.all_models == ("fashion-gan-conditional", "fashion-vae")
    assert (job.replicas, job.memory) == (2, 2 << 30)


def test_paths_are_made_absolute_and_names_of_the_store_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle(tmp_path / "here" / "bundle")
    (tmp_path / "fashion").mkdir()  # of pictures, say
    models = ["here", "fashion", "x=runs/a", "s3://bucket/run", "fashion@canary", "shoes=fashion:3"]
    job = with_absolute_paths(job_of(models=models, root="kept", keys="k.json"))
    here = str(tmp_path)
    assert job.all_models == (
        f"{here}/here",
        "fashion",
        f"x={here}/runs/a",
        "s3://bucket/run",
        "fashion@canary",
        "shoes=fashion:3",
    )
    assert (job.root, job.keys) == (f"{here}/kept", f"{here}/k.json")


@pytest.mark.parametrize("replicas", [3, (1, 4)])
def test_ray_serve_takes_what_is_emitted(tmp_path: Path, replicas: Any) -> None:
    keys = tmp_path / "keys.json"
    add(keys, "alice")
    place = bundle(tmp_path / "b")
    job = job_of(
        models=[f"x={place.url}"], replicas=replicas, gpus_per_replica=0.25, memory="1GiB",
        host="0.0.0.0", port=8123, keys=str(keys),
    )  # fmt: skip
    config = ServeDeploySchema.model_validate(serve_config(job))
    assert (config.http_options.host, config.http_options.port) == ("0.0.0.0", 8123)
    (application,) = config.applications
    (deployment,) = application.deployments
    assert deployment.ray_actor_options.num_gpus == 0.25
    if replicas == 3:
        assert deployment.num_replicas == 3
    else:
        scaling = AutoscalingConfig.model_validate(deployment.autoscaling_config)
        assert (scaling.min_replicas, scaling.max_replicas) == (1, 4)
        assert scaling.upscale_delay_s < scaling.downscale_delay_s
    builder = import_attr(application.import_path)
    made = call_user_app_builder_with_args_if_necessary(builder, application.args)
    assert made._bound_deployment.name == deployment.name
    (served,), memory, kept = made._bound_deployment.init_args
    assert (served.name, memory, kept) == ("x", 1 << 30, str(keys))


def test_an_endpoint_for_others_is_not_emitted_without_keys() -> None:
    with pytest.raises(UsageError, match="could use the endpoint"):
        serve_config(job_of(host="0.0.0.0"))
