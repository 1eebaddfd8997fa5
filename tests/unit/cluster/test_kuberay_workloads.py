"""What is embedded in a RayJob and in a RayService is what distgen and Ray can run."""

from __future__ import annotations

import shlex
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from ray._common.utils import import_attr
from ray.runtime_env import RuntimeEnv
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from distgen.cli.kinds import read_job
from distgen.core.storage import locate
from distgen.launch.nodes import JOB_STOP_WAIT_S
from distgen.registry import write_bundle
from distgen.serving.http.gate.keyfile import add
from distgen.training.job import TrainJob
from tests.unit.cluster.rendered import (
    OVERLAYS,
    ROOT,
    Manifest,
    Pods,
    amount,
    cluster_spec,
    head_of,
    ray_object,
    ray_pods,
    render,
    workers_of,
)
from tests.unit.registry.small_bundles import GAN, SPEC, state_of

jobs = pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name.startswith("rayjob/")])
services = pytest.mark.parametrize(
    "overlay", [name for name in OVERLAYS if name.startswith("rayservice/")]
)


def mounted_job(manifests: list[Manifest], folder: Path) -> tuple[TrainJob, str]:
    """The job of a RayJob, read from the file that its entrypoint finds on the head."""
    entrypoint = ray_object(manifests)["spec"]["entrypoint"]
    replaces_shell, python, flag, module, kind, path, *overrides = shlex.split(entrypoint)
    assert (replaces_shell, python, flag, module) == ("exec", "python", "-m", "distgen")
    head = head_of(manifests)
    mount = next(m for m in head.main["volumeMounts"] if path.startswith(m["mountPath"] + "/"))
    volume = next(v for v in head.spec["volumes"] if v["name"] == mount["name"])
    (config_map,) = (
        m
        for m in manifests
        if m["kind"] == "ConfigMap" and m["metadata"]["name"] == volume["configMap"]["name"]
    )
    file = folder / "job.yaml"
    file.write_text(config_map["data"][path.removeprefix(mount["mountPath"] + "/")])
    return read_job(str(file), overrides, kind), kind


@jobs
def test_a_rayjobs_entrypoint_is_a_command_of_distgen_with_a_job_file(
    overlay: str, tmp_path: Path
) -> None:
    job, kind = mounted_job(render(overlay), tmp_path)
    assert kind == "train"
    for place in (job.storage, job.data.shards):
        assert place.startswith("s3://"), "every pod must reach it"


def test_a_rayjobs_job_file_is_one_of_ours_but_for_places_and_width(tmp_path: Path) -> None:
    job, _ = mounted_job(render("rayjob/cpu"), tmp_path)
    ours = read_job(str(ROOT / "jobs" / f"{job.name}.yaml"), [])
    moved = {"storage": job.storage, "scaling": job.scaling}
    data = ours.data.model_copy(update={"shards": job.data.shards})
    assert job == ours.model_copy(update={**moved, "data": data})


@jobs
def test_a_rayjobs_workers_fit_onto_its_pods(overlay: str, tmp_path: Path) -> None:
    manifests = render(overlay)
    job, _ = mounted_job(manifests, tmp_path)
    (pods,), (group,) = workers_of(manifests), cluster_spec(manifests)["workerGroupSpecs"]
    on_one = fitting(pods, job.scaling.cpus_per_worker, job.scaling.gpus_per_worker)
    assert on_one >= 1
    assert on_one * group["maxReplicas"] >= job.scaling.most
    assert (job.scaling.gpus_per_worker > 0) is has_gpus(pods)


def fitting(pods: Pods, cpus: float, gpus: float) -> int:
    limits = pods.main["resources"]["limits"]
    by_cpu = int(amount(limits["cpu"]) // cpus)
    return min(by_cpu, int(amount(limits.get("nvidia.com/gpu", 0)) // gpus)) if gpus else by_cpu


def has_gpus(pods: Pods) -> bool:
    return "nvidia.com/gpu" in pods.main["resources"]["limits"]


@jobs
def test_a_rayjob_is_like_a_job_that_distgen_submits(overlay: str, tmp_path: Path) -> None:
    manifests = render(overlay)
    spec = ray_object(manifests)["spec"]
    raw = yaml.safe_load(spec["runtimeEnvYAML"])
    # A misspelt field would only be warned of, on the cluster.
    assert set(raw) <= RuntimeEnv.known_fields
    environment = RuntimeEnv(**raw)
    assert environment.env_vars() == {"RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_WAIT_S)}
    job, kind = mounted_job(manifests, tmp_path)
    assert spec["metadata"] == {"distgen": kind, "name": job.name}, "as `distgen jobs ls` reads it"


@jobs
def test_a_rayjob_that_is_lost_comes_again_and_leaves_nothing(overlay: str) -> None:
    spec = ray_object(render(overlay))["spec"]
    assert spec["backoffLimit"] >= 1
    # KubeRay refuses a time to live without an end of the cluster.
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never"


def serve_config(overlay: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(ray_object(render(overlay))["spec"]["serveConfigV2"])
    return config


def unknown_fields(schema: type[BaseModel], value: Any, place: str = "") -> list[str]:
    """Fields of a config that no model of Ray Serve has; Serve itself lets them pass."""
    found = []
    for key, inner in value.items():
        field = schema.model_fields.get(key)
        if field is None:
            found.append(f"{place}{key}")
            continue
        for model in models_in(field.annotation):
            for entry in inner if isinstance(inner, list) else [inner]:
                if isinstance(entry, dict):
                    found += unknown_fields(model, entry, f"{place}{key}.")
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in typing.get_args(annotation) for model in models_in(part)]


@services
def test_ray_serve_knows_every_field(overlay: str) -> None:
    config = serve_config(overlay)
    assert unknown_fields(ServeDeploySchema, config) == []
    (application,) = ServeDeploySchema.model_validate(config).applications
    for deployment in application.deployments:  # which the schema leaves as it is
        AutoscalingConfig.model_validate(deployment.autoscaling_config)


@pytest.mark.parametrize("change", ["applications", "deployments", "ray_actor_options"])
def test_a_misspelt_field_of_ray_serve_is_found(change: str) -> None:
    config = serve_config("rayservice/cpu")
    place = config["applications"][0]
    place = place if change == "applications" else place["deployments"][0]
    place = place[change] if change == "ray_actor_options" else place
    place["nmu_gpus"] = 1
    (found,) = unknown_fields(ServeDeploySchema, config)
    assert found.endswith("nmu_gpus")


@services
def test_ray_serve_builds_the_application_with_those_deployments(
    overlay: str, tmp_path: Path
) -> None:
    (application,) = ServeDeploySchema.model_validate(serve_config(overlay)).applications
    assert application.args["model"].startswith("s3://"), "every pod must reach it"
    keys = tmp_path / "keys.json"
    add(keys, "alice")
    arguments = application.args | {"model": str(bundle(tmp_path)), "keys": str(keys)}
    builder = import_attr(application.import_path)
    made = call_user_app_builder_with_args_if_necessary(builder, arguments)
    assert [entry.name for entry in application.deployments] == [made._bound_deployment.name]


@services
def test_an_endpoint_for_other_pods_has_keys_that_its_own_pods_can_read(overlay: str) -> None:
    (application,) = serve_config(overlay)["applications"]
    place = Path(application["args"]["keys"])
    for pods in ray_pods(render(overlay)):
        (mount,) = (m for m in pods.main["volumeMounts"] if m["mountPath"] == str(place.parent))
        (volume,) = (v for v in pods.spec["volumes"] if v["name"] == mount["name"])
        secret = volume["secret"]
        assert secret["secretName"] == "distgen-keys"
        assert "subPath" not in mount, "a file that is mounted alone stays as it was"
        # Root's files, read by the pod's group: what distgen takes for a mounted secret.
        assert secret["defaultMode"] == 0o440
        assert pods.spec["securityContext"]["fsGroup"] == pods.spec["securityContext"]["runAsGroup"]


def bundle(folder: Path) -> Path:
    write_bundle(
        locate(folder / "bundle"),
        model_config=GAN,
        spec=SPEC,
        state=state_of(GAN, SPEC),
        card=None,
        samples_png=None,
        name="small",
        images_seen=1,
    )
    return folder / "bundle"


@services
def test_replicas_fit_onto_their_pods_and_use_their_gpus(overlay: str) -> None:
    manifests = render(overlay)
    (pods,), (group,) = workers_of(manifests), cluster_spec(manifests)["workerGroupSpecs"]
    (deployment,) = serve_config(overlay)["applications"][0]["deployments"]
    options, replicas = deployment["ray_actor_options"], deployment["autoscaling_config"]
    gpus = options.get("num_gpus", 0)
    on_one = fitting(pods, options["num_cpus"], gpus)
    assert (gpus > 0) is has_gpus(pods)
    assert on_one * group["minReplicas"] >= replicas["min_replicas"]
    assert on_one * group["maxReplicas"] >= replicas["max_replicas"]
    # One for each node that is always there, so that one may go.
    assert replicas["min_replicas"] >= group["minReplicas"]


@services
def test_requests_find_the_port_and_nobody_but_replicas_answers(overlay: str) -> None:
    manifests = render(overlay)
    config = serve_config(overlay)
    assert config["http_options"]["host"] == "0.0.0.0", "Services come from other pods"
    assert config["proxy_location"] == "EveryNode"
    assert ray_object(manifests)["spec"]["excludeHeadPodFromServeSvc"] is True
    for pods in ray_pods(manifests):
        ports = {entry["name"]: entry["containerPort"] for entry in pods.main["ports"]}
        assert ports["serve"] == config["http_options"]["port"], pods.place
    for pods in workers_of(manifests):
        probe = pods.main["readinessProbe"]
        assert probe["httpGet"] == {"path": "/-/healthz", "port": "serve"}


@services
def test_haproxy_is_on_in_all_pods_alike(overlay: str) -> None:
    for pods in ray_pods(render(overlay)):
        mine = {name: v for name, v in pods.env().items() if name.startswith("RAY_SERVE_")}
        assert mine == {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        }, pods.place


@services
def test_an_old_cluster_answers_what_it_has_taken(overlay: str) -> None:
    manifests = render(overlay)
    spec = ray_object(manifests)["spec"]
    assert spec["upgradeStrategy"] == {"type": "NewCluster"}
    assert spec["rayClusterDeletionDelaySeconds"] >= 60


def test_overlays_of_a_service_differ_in_what_a_replica_takes_only() -> None:
    on_cpus, on_gpus = serve_config("rayservice/cpu"), serve_config("rayservice/gpu")
    for config in (on_cpus, on_gpus):
        del config["applications"][0]["deployments"][0]["ray_actor_options"]
    assert on_cpus == on_gpus
