"""Every overlay is what Kubernetes and KubeRay would take, without a field that nobody reads."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from tests.unit.cluster.crd import problems
from tests.unit.cluster.rendered import (
    KUBERAY,
    OVERLAYS,
    Manifest,
    all_pods,
    cluster_spec,
    compose,
    ray_object,
    render,
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


@pytest.mark.parametrize("kind", ["raycluster/gpu", "rayjob/gpu", "rayservice/gpu"])
def test_an_overlay_of_a_team_names_its_images_and_its_namespace(tmp_path: Path, kind: str) -> None:
    names = [Path(path).name for path in components_of(kind)]
    manifests = compose(
        tmp_path / "ours",
        names,
        namespace="vision",
        images=[
            {"name": "distgen", "newName": "registry.example.org/distgen", "newTag": "7-cpu"},
            {"name": "distgen-cuda", "newName": "registry.example.org/distgen", "newTag": "7-cuda"},
        ],
    )
    images = {container["image"] for pods in all_pods(manifests) for container in pods.containers}
    ours = {f"registry.example.org/distgen:7-{device}" for device in ("cpu", "cuda")}
    assert images == ours | {"redis:7.4"}
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"vision"}


def components_of(overlay: str) -> list[str]:
    return list(
        yaml.safe_load((KUBERAY / overlay / "kustomization.yaml").read_text())["components"]
    )
