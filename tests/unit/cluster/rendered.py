"""What Kubernetes would get from `cluster/kuberay`, and ways to walk over all of it."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
KUBERAY = ROOT / "cluster" / "kuberay"
OLDEST_KUSTOMIZE = (5, 0)

OVERLAYS = tuple(
    str(file.parent.relative_to(KUBERAY))
    for file in sorted(KUBERAY.rglob("kustomization.yaml"))
    if yaml.safe_load(file.read_text())["kind"] == "Kustomization" and file.parent.name != "base"
)
"""All that can be applied, found and not listed: a new overlay keeps every promise too."""

# Where each kind has the spec of its cluster.
CLUSTER_SPEC = {
    "RayCluster": ("spec",),
    "RayJob": ("spec", "rayClusterSpec"),
    "RayService": ("spec", "rayClusterConfig"),
}
Manifest = dict[str, Any]


@functools.cache
def kustomize() -> tuple[str, ...]:
    """The command that renders a folder; the test is skipped where there is none."""
    for command, version in (
        (("kustomize", "build"), ("kustomize", "version")),
        (("kubectl", "kustomize"), ("kubectl", "version", "--client")),
    ):
        if shutil.which(command[0]) is None:
            continue
        said = subprocess.run(version, capture_output=True, text=True).stdout
        found = re.search(r"(?:Kustomize Version: |^)v(\d+)\.(\d+)", said, re.MULTILINE)
        if found and tuple(map(int, found.groups())) >= OLDEST_KUSTOMIZE:
            return command
    pytest.skip("neither kustomize nor kubectl with kustomize 5 is installed")


@functools.cache
def _text(folder: Path) -> str:
    ended = subprocess.run([*kustomize(), str(folder)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr, "kustomize warns"
    return ended.stdout


def render(overlay: str | Path) -> list[Manifest]:
    """The manifests of an overlay: a folder below `cluster/kuberay`, or any other."""
    return list(yaml.safe_load_all(_text(KUBERAY / overlay)))


def compose(folder: Path, components: Sequence[str], **more: Any) -> list[Manifest]:
    """The manifests of a team's own overlay, made of the base and of components."""
    parts = [f"cluster/kuberay/components/{name}" for name in components]
    return render_elsewhere(
        folder, {"resources": ["cluster/kuberay/base"], "components": parts} | more
    )


def render_elsewhere(folder: Path, overlay: Manifest) -> list[Manifest]:
    """The manifests of an overlay outside the repository, which names places inside it."""
    folder.mkdir(parents=True, exist_ok=True)
    here = os.path.relpath(ROOT, folder)
    places = {
        key: [f"{here}/{place}" for place in overlay.get(key, [])]
        for key in ("resources", "components")
    }
    heading = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(heading | overlay | places))
    return render(folder)


def ray_object(manifests: Sequence[Manifest]) -> Manifest:
    """The one RayCluster, RayJob or RayService."""
    (found,) = (m for m in manifests if m["apiVersion"].startswith("ray.io/"))
    return found


def cluster_spec(manifests: Sequence[Manifest]) -> Manifest:
    """The spec of the Ray cluster, wherever its kind keeps it."""
    found = ray_object(manifests)
    for key in CLUSTER_SPEC[found["kind"]]:
        found = found[key]
    return found


@dataclass(frozen=True)
class Pods:
    """A template of pods, and where it stands."""

    place: str
    template: Manifest

    @property
    def spec(self) -> Manifest:
        return self.template["spec"]

    @property
    def containers(self) -> list[Manifest]:
        return [*self.spec["containers"], *self.spec.get("initContainers", [])]

    @property
    def main(self) -> Manifest:
        """The container in which Ray runs."""
        return self.spec["containers"][0]

    @property
    def labels(self) -> dict[str, str]:
        return self.template["metadata"]["labels"]

    def env(self) -> dict[str, str]:
        """Variables of the main container; those from a Secret are empty."""
        names = [entry["name"] for entry in self.main["env"]]
        assert len(set(names)) == len(names), f"{self.place}: a variable is given twice"
        return {entry["name"]: entry.get("value", "") for entry in self.main["env"]}


def head_of(manifests: Sequence[Manifest]) -> Pods:
    """The head's pod, with the labels that KubeRay adds."""
    return _ray_pods("head", cluster_spec(manifests)["headGroupSpec"])


def workers_of(manifests: Sequence[Manifest]) -> list[Pods]:
    """The pods of each group of workers, with the labels that KubeRay adds."""
    groups = cluster_spec(manifests)["workerGroupSpecs"]
    return [_ray_pods("worker", group) for group in groups]


def _ray_pods(node_type: str, group: Manifest) -> Pods:
    template = group["template"]
    labels = template["metadata"]["labels"] | {"ray.io/node-type": node_type}
    metadata = template["metadata"] | {"labels": labels}
    return Pods(group.get("groupName", node_type), template | {"metadata": metadata})


def ray_pods(manifests: Sequence[Manifest]) -> list[Pods]:
    """Head and workers."""
    return [head_of(manifests), *workers_of(manifests)]


def all_pods(manifests: Sequence[Manifest]) -> list[Pods]:
    """Every template of pods in any manifest, found by its shape."""
    found = [
        Pods(place, value)
        for manifest in manifests
        for place, value in walk(manifest, manifest["kind"])
        if isinstance(value, dict) and "containers" in value.get("spec", {})
    ]
    assert len(found) >= 3, "head, workers and Redis at least"
    return found


def walk(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Everything inside a manifest, with its place."""
    yield place, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from walk(inner, f"{place}[{index}]")


_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9}
_UNITS |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def amount(quantity: str | int) -> float:
    """A Kubernetes quantity such as 500m or 16Gi as a number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", str(quantity))
    assert match, f"{quantity!r} is no quantity"
    return float(match[1]) * _UNITS[match[2]]
