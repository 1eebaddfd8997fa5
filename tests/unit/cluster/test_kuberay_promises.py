"""What every cluster on Kubernetes promises, overlay by overlay: none may forget one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import ray
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)

from distgen.launch.nodes import JOB_STOP_WAIT_S
from tests.unit.cluster.autoscaling import nodes_for
from tests.unit.cluster.rendered import (
    OVERLAYS,
    ROOT,
    Manifest,
    Pods,
    all_pods,
    amount,
    cluster_spec,
    head_of,
    ray_object,
    ray_pods,
    render,
    walk,
    workers_of,
)

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
TEARDOWN_S = 15
"""What Ray's processes have for their end after a drain that took all its time."""
SPOT_NOTICE_S = 120
"""The longest notice that a provider gives before it takes a spot node back."""
LONGEST_NAME = {"RayCluster": 63, "RayJob": 47, "RayService": 47}
"""KubeRay adds to a name, and the whole must fit into a label."""

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
spot_overlays = pytest.mark.parametrize(
    "overlay", [name for name in OVERLAYS if name.endswith("/spot")]
)


@every_overlay
def test_nobody_gets_in_without_the_token(overlay: str) -> None:
    manifests = render(overlay)
    spec = cluster_spec(manifests)
    assert spec["authOptions"] == {"mode": "token", "secretName": "distgen-auth"}
    # Variables go before the options, and could take the token away again.
    set_by_hand = {
        entry["name"]
        for pods in all_pods(manifests)
        for container in pods.containers
        for entry in container.get("env", [])
        if entry["name"].startswith(("RAY_AUTH_", "RAY_ENABLE_K8S_TOKEN"))
    }
    assert not set_by_hand


@every_overlay
def test_secrets_are_named_and_never_written_down(overlay: str) -> None:
    manifests = render(overlay)
    assert "Secret" not in {manifest["kind"] for manifest in manifests}
    for manifest in manifests:
        for place, value in walk(manifest, manifest["kind"]):
            name = str(value.get("name", "")) if isinstance(value, dict) else ""
            if re.search(r"PASSWORD|SECRET|TOKEN|_KEY", name) or place.endswith("redisPassword"):
                assert "secretKeyRef" in value["valueFrom"], place
            if isinstance(value, str) and re.search(r"\.(command|args)\[", place):
                # A shell's own command and a variable before a command are not in `ps`.
                hidden = re.sub(r"printf '[^']*' \"\$\w+\"|REDISCLI_AUTH=\$\w+ ", "", value)
                assert "PASSWORD" not in hidden, place


@every_overlay
def test_the_head_computes_nothing(overlay: str) -> None:
    head = cluster_spec(render(overlay))["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "resources" not in head, "KubeRay refuses both"
    limits = head["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert not [name for name in limits if name.endswith("gpu")]


@every_overlay
def test_what_is_asked_for_is_what_may_be_used(overlay: str) -> None:
    manifests = render(overlay)
    resources = {
        f"{pods.place}/{container['name']}": container["resources"]
        for pods in all_pods(manifests)
        for container in pods.containers
    }
    resources["autoscaler"] = cluster_spec(manifests)["autoscalerOptions"]["resources"]
    for place, asked in resources.items():
        assert asked["requests"] == asked["limits"], place
        assert {"cpu", "memory"} <= set(asked["limits"]), place


@every_overlay
def test_shared_memory_is_memory_of_a_stated_size(overlay: str) -> None:
    manifests = render(overlay)
    spec = cluster_spec(manifests)
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for pods, group in zip(ray_pods(manifests), groups, strict=True):
        mounts = {mount["mountPath"]: mount["name"] for mount in pods.main["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pods.spec["volumes"]}
        shm = volumes[mounts["/dev/shm"]]["emptyDir"]
        assert shm["medium"] == "Memory", pods.place
        # What lies there counts as the container's memory, and Ray's objects are not all of it.
        size, memory = amount(shm["sizeLimit"]), amount(pods.main["resources"]["limits"]["memory"])
        assert int(group["rayStartParams"]["object-store-memory"]) < size < memory / 2, pods.place


@every_overlay
def test_a_pod_outlives_its_drain(overlay: str) -> None:
    for pods in ray_pods(render(overlay)):
        grace, drain = pods.spec["terminationGracePeriodSeconds"], float(pods.env()[DRAIN])
        assert grace >= pre_stop_s(pods) + drain + TEARDOWN_S, pods.place
        assert drain >= 60, "a checkpoint and its upload take a while"


def pre_stop_s(pods: Pods) -> float:
    """Seconds that the pod still gets requests, which it must answer."""
    program, *arguments = pods.main["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep", "whose time is known"
    assert float(arguments[0]) > 0
    return float(arguments[0])


@every_overlay
def test_jobs_on_the_head_have_the_time_of_a_checkpoint_on_any_cluster(overlay: str) -> None:
    head = head_of(render(overlay)).env()
    assert head["RAY_JOB_STOP_WAIT_TIME_S"] == str(JOB_STOP_WAIT_S)
    assert float(head[DRAIN]) >= JOB_STOP_WAIT_S


@spot_overlays
def test_a_spot_node_is_left_within_its_notice(overlay: str) -> None:
    for pods in workers_of(render(overlay)):
        assert pods.spec["terminationGracePeriodSeconds"] < SPOT_NOTICE_S


@spot_overlays
def test_workers_are_on_spot_nodes_and_the_head_never_is(overlay: str) -> None:
    manifests = render(overlay)
    workers, head = workers_of(manifests), head_of(manifests)
    # Terms are alternatives; what one term lists must all hold.
    terms = [term["matchExpressions"] for pods in workers for term in node_terms(pods)]
    assert all(len(term) == 1 and term[0]["operator"] == "In" for term in terms)
    spot = {(term[0]["key"], tuple(term[0]["values"])) for term in terms}
    assert len(spot) == 4
    (excluded,) = node_terms(head)
    assert {(e["key"], tuple(e["values"])) for e in excluded["matchExpressions"]} == spot
    assert {entry["operator"] for entry in excluded["matchExpressions"]} == {"NotIn"}
    assert "tolerations" not in head.spec
    for group in cluster_spec(manifests)["workerGroupSpecs"]:
        assert group["labels"] == {"ray.io/market-type": "spot"}


def node_terms(pods: Pods) -> list[Manifest]:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    terms: list[Manifest] = pods.spec["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"]
    return terms


@every_overlay
def test_nobody_evicts_the_last_one(overlay: str) -> None:
    manifests = render(overlay)
    budgets = [m["spec"] for m in manifests if m["kind"] == "PodDisruptionBudget"]
    for budget in budgets:
        # For pods without a scale that Kubernetes knows nothing else counts.
        assert isinstance(budget["minAvailable"], int), budget
        assert "maxUnavailable" not in budget
    redis = next(Pods("redis", m["spec"]["template"]) for m in manifests if is_redis(m))
    alone = [head_of(manifests), redis]
    if ray_object(manifests)["kind"] == "RayService":
        alone += workers_of(manifests)
        for group in cluster_spec(manifests)["workerGroupSpecs"]:
            assert group["minReplicas"] > 1, "or no node could ever be drained"
    for pods in alone:
        (held,) = (budget for budget in budgets if selects(budget, pods))
        assert held["minAvailable"] == 1, pods.place
    held_for_nobody = [b for b in budgets if not any(selects(b, pods) for pods in alone)]
    assert not held_for_nobody


def selects(spec: Manifest, pods: Pods) -> bool:
    chosen: dict[str, str] = spec["selector"]["matchLabels"]
    return chosen.items() <= pods.labels.items()


def is_redis(manifest: Manifest) -> bool:
    return manifest["kind"] == "StatefulSet" and manifest["metadata"]["name"] == "distgen-redis"


@every_overlay
def test_the_autoscaler_is_the_second_and_has_limits(overlay: str) -> None:
    manifests = render(overlay)
    spec = cluster_spec(manifests)
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    for pods in ray_pods(manifests):
        assert pods.spec.get("restartPolicy", "Never") == "Never", "KubeRay refuses another"
        assert "RAY_enable_autoscaler_v2" not in pods.env(), "KubeRay refuses both"
    for group in spec["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] <= 64


@every_overlay
def test_rays_autoscaler_reads_the_cluster_and_never_counts_on_the_head(overlay: str) -> None:
    manifests = render(overlay)
    spec = cluster_spec(manifests)
    cluster = {"metadata": {"name": "any", "namespace": "any"}, "spec": spec}
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    assert config["available_node_types"]["headgroup"]["resources"]["CPU"] == 0
    (group,) = spec["workerGroupSpecs"]
    limits = workers_of(manifests)[0].main["resources"]["limits"]
    worker = {"CPU": amount(limits["cpu"]), "GPU": amount(limits.get("nvidia.com/gpu", 0))}
    wanted = {name: number for name, number in worker.items() if number}
    assert nodes_for(config, [wanted] * 3) == {group["groupName"]: 3}
    too_many = nodes_for(config, [wanted] * (group["maxReplicas"] + 1))
    assert too_many.total() == group["minReplicas"], "those that are always there"


@every_overlay
def test_prometheus_finds_the_ports_of_ray(overlay: str) -> None:
    head, *workers = (
        {entry["name"]: entry["containerPort"] for entry in pods.main["ports"]}
        for pods in ray_pods(render(overlay))
    )
    assert {"metrics": 8080, "as-metrics": 44217, "dash-metrics": 44227}.items() <= head.items()
    assert all(ports["metrics"] == 8080 for ports in workers)


@every_overlay
def test_a_new_head_finds_what_the_old_one_knew(overlay: str) -> None:
    manifests = render(overlay)
    options = cluster_spec(manifests)["gcsFaultToleranceOptions"]
    host, _, port = options["redisAddress"].partition(":")
    (service,) = (m for m in manifests if m["kind"] == "Service" and m["metadata"]["name"] == host)
    assert [entry["port"] for entry in service["spec"]["ports"]] == [int(port)]
    redis = next(m for m in manifests if is_redis(m))
    labels = redis["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    (container,) = redis["spec"]["template"]["spec"]["containers"]
    (password,) = (e["valueFrom"] for e in container["env"] if e["name"] == "REDIS_PASSWORD")
    assert options["redisPassword"]["valueFrom"] == password
    # A fixed name would be shared by the two clusters of an upgrade or of a retry.
    assert "externalStorageNamespace" not in options
    # It outlives its pod.
    assert "--appendonly yes" in container["args"][0]
    (claim,) = redis["spec"]["volumeClaimTemplates"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts["/data"] == claim["metadata"]["name"]
    refused = {"REDIS_PASSWORD", "REDIS_USERNAME", "RAY_REDIS_ADDRESS"}
    assert not refused & set(head_of(manifests).env()), "KubeRay sets these itself"


@every_overlay
def test_only_rays_pods_reach_redis(overlay: str) -> None:
    manifests = render(overlay)
    (policy,) = (m["spec"] for m in manifests if m["kind"] == "NetworkPolicy")
    redis = next(Pods("redis", m["spec"]["template"]) for m in manifests if is_redis(m))
    assert policy["podSelector"]["matchLabels"].items() <= redis.labels.items()
    ((rule,),) = (entry["from"] for entry in policy["ingress"])
    for pods in ray_pods(manifests):
        assert rule["podSelector"]["matchLabels"].items() <= pods.labels.items(), pods.place


@every_overlay
def test_no_container_may_become_more_than_it_is(overlay: str) -> None:
    manifests = render(overlay)
    for pods in all_pods(manifests):
        context = pods.spec["securityContext"]
        assert context["runAsNonRoot"] is True, pods.place
        assert context["runAsUser"] > 0, pods.place
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, pods.place
        assert "hostNetwork" not in pods.spec, pods.place
        assert not [v for v in pods.spec.get("volumes", []) if "hostPath" in v], pods.place
        for container in pods.containers:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, pods.place
            assert own["capabilities"] == {"drop": ["ALL"]}, pods.place
        # The head's autoscaler asks Kubernetes for pods; nobody else asks it for anything.
        if "headGroupSpec" not in pods.place:
            assert pods.spec["automountServiceAccountToken"] is False, pods.place
    autoscaler = cluster_spec(manifests)["autoscalerOptions"]["securityContext"]
    assert autoscaler["allowPrivilegeEscalation"] is False


@every_overlay
def test_kuberay_starts_the_ray_that_the_image_has(overlay: str) -> None:
    manifests = render(overlay)
    version = cluster_spec(manifests)["rayVersion"]
    assert f"ray=={version}\n" in (ROOT / "infra" / "constraints.txt").read_text()
    assert version == ray.__version__
    for pods in all_pods(manifests):
        for container in pods.containers:
            image = container["image"]
            assert image in ("distgen", "distgen-cuda") or re.fullmatch(r"redis:\d+\.\d+", image)


@every_overlay
def test_names_leave_room_for_what_kuberay_adds(overlay: str) -> None:
    found = ray_object(render(overlay))
    name = found["metadata"]["name"]
    assert len(name) <= LONGEST_NAME[found["kind"]]
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)


@every_overlay
def test_gpus_are_where_the_overlay_says(overlay: str) -> None:
    with_gpus = Path(overlay).name in ("gpu", "spot")
    for pods in workers_of(render(overlay)):
        assert ("nvidia.com/gpu" in pods.main["resources"]["limits"]) is with_gpus
        tolerated = {entry["key"] for entry in pods.spec.get("tolerations", [])}
        assert ("nvidia.com/gpu" in tolerated) is with_gpus
        assert pods.main["image"] == ("distgen-cuda" if with_gpus else "distgen")
