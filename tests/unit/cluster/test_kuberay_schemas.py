"""Every overlay is what Kubernetes and KubeRay would take, without a field that nobody reads."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import yaml

from tests.unit.cluster.crd import problems
from tests.unit.cluster.rendered import (
    OVERLAYS,
    ROOT,
    Manifest,
    all_pods,
    cluster_spec,
    compose,
    ray_object,
    render,
    render_elsewhere,
)

KUBERNETES = "1.34"
KINDS = {"raycluster": "RayCluster", "rayjob": "RayJob", "rayservice": "RayService"}


def test_each_kind_comes_for_cpus_gpus_and_spot_nodes() -> None:
    assert set(OVERLAYS) >= {f"{kind}/{name}" for kind in KINDS for name in ("cpu", "gpu", "spot")}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_has_one_ray_object_of_the_kind_that_its_folder_names(overlay: str) -> None:
    assert ray_object(render(overlay))["kind"] == KINDS[overlay.partition("/")[0]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kuberay_knows_every_field(overlay: str) -> None:
    assert problems(ray_object(render(overlay))) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_knows_every_field_of_its_own_kinds_and_of_all_pods(overlay: str) -> None:
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed (extra dev)"
    )
    manifests = render(overlay)
    ours = [m for m in manifests if not m["apiVersion"].startswith("ray.io/")]
    pods = [
        {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": "any"},
            "template": found.template,
        }
        for found in all_pods(manifests)
    ]
    assert len(ours) >= 4
    for manifest in [*ours, *pods]:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def broken(change: str) -> Manifest:
    found = copy.deepcopy(ray_object(render("raycluster/cpu")))
    head = found["spec"]["headGroupSpec"]
    container = head["template"]["spec"]["containers"][0]
    match change:
        case "an unknown field":
            container["resorces"] = {}
        case "an unknown field beside metadata":
            found["spce"] = {}
        case "a wrong type":
            head["rayStartParams"]["num-cpus"] = 0
        case "a wrong word":
            found["spec"]["authOptions"]["mode"] = "tokne"
        case "a missing field":
            del head["template"]
        case "a variable twice":
            container["env"].append(container["env"][0])
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("an unknown field", "'resorces' was unexpected"),
        ("an unknown field beside metadata", "'spce' was unexpected"),
        ("a wrong type", "0 is not of type 'string'"),
        ("a wrong word", "'tokne' is not one of"),
        ("a missing field", "'template' is a required property"),
        ("a variable twice", "comes twice"),
    ],
)
def test_a_mistake_in_a_manifest_is_found(change: str, said: str) -> None:
    (found,) = problems(broken(change))
    assert said in found


@pytest.mark.parametrize("kind", ["", "as-rayjob", "as-rayservice"])
def test_tls_is_one_line_more_in_an_overlay(tmp_path: Path, kind: str) -> None:
    manifests = compose(tmp_path / "ours", [name for name in ("tls", kind) if name])
    spec = cluster_spec(manifests)
    assert spec["tlsOptions"] == {"enabled": True}
    # KubeRay refuses a cluster that has these from elsewhere.
    text = str(spec)
    assert "RAY_USE_TLS" not in text
    assert "RAY_TLS_" not in text
    assert "/etc/ray/tls" not in text
    assert problems(ray_object(manifests)) == []


@pytest.mark.parametrize("overlay", ["raycluster/gpu", "rayjob/gpu", "rayservice/gpu"])
def test_the_readmes_overlay_names_images_namespace_and_job_file(
    tmp_path: Path, overlay: str
) -> None:
    ours = readmes_overlay()
    ours["resources"] = [f"cluster/kuberay/{overlay}"]
    if not overlay.startswith("rayjob"):
        del ours["configMapGenerator"]
    (tmp_path / "job.yaml").write_text("kind: train\n")
    manifests = render_elsewhere(tmp_path, ours)
    images = {container["image"] for pods in all_pods(manifests) for container in pods.containers}
    named = {f"{entry['newName']}:{entry['newTag']}" for entry in ours["images"]}
    assert images == named | {"redis:7.4"}
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"vision"}
    files = [manifest["data"] for manifest in manifests if manifest["kind"] == "ConfigMap"]
    assert files == ([{"job.yaml": "kind: train\n"}] if overlay.startswith("rayjob") else [])


def readmes_overlay() -> Manifest:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "cluster/README.md").read_text(), re.DOTALL)
    overlay: Manifest = yaml.safe_load(block)
    assert overlay["resources"] == ["distgen/cluster/kuberay/rayjob/gpu"]
    return overlay
