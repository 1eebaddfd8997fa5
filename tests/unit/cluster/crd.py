"""KubeRay's schemas, applied as an API server with strict field validation applies them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.unit.cluster.rendered import ROOT

FOLDER = ROOT.parent / "shared" / "kuberay-crds"
FILES = {
    "RayCluster": "ray.io_rayclusters.yaml",
    "RayJob": "ray.io_rayjobs.yaml",
    "RayService": "ray.io_rayservices.yaml",
}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Schema = dict[str, Any]


def problems(manifest: dict[str, Any]) -> list[str]:
    """What an API server would refuse in a Ray object; the test is skipped without schemas."""
    schema = schema_of(manifest["kind"])
    found = [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    ]
    return found + repeated(manifest, schema, manifest["kind"])


@functools.cache
def schema_of(kind: str) -> Schema:
    """The strict schema of a kind's version v1."""
    file: Path = FOLDER / FILES[kind]
    if not file.is_file():
        pytest.skip(f"KubeRay's schemas are not in {FOLDER}")
    definition = yaml.load(file.read_text(), Loader=_LOADER)
    assert definition["spec"]["names"]["kind"] == kind
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    schema = strict(version["schema"]["openAPIV3Schema"])
    # The server knows what metadata is without being told.
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def strict(schema: Schema) -> Schema:
    """A structural schema as a JSON schema in which a field that is not named is refused."""
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("nullable"):
        made["type"] = [schema["type"], "null"]
    if schema.get("x-kubernetes-list-type") == "map":
        made["listMapKeys"] = schema["x-kubernetes-list-map-keys"]
    if "properties" in schema:
        made["properties"] = {key: strict(part) for key, part in schema["properties"].items()}
    if "items" in schema:
        made["items"] = strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(schema["additionalProperties"])
    elif schema.get("type") == "object":
        open_ended = schema.get("x-kubernetes-preserve-unknown-fields", False)
        made.setdefault("additionalProperties", open_ended)
    return made


def repeated(value: Any, schema: Schema, place: str) -> list[str]:
    """Entries of lists that are maps, such as variables and volumes, whose key comes twice."""
    found = []
    if isinstance(value, dict):
        for key, inner in value.items():
            part = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if isinstance(part, dict):
                found += repeated(inner, part, f"{place}.{key}")
    if isinstance(value, list):
        names = schema.get("listMapKeys")
        keys = [tuple(entry.get(name) for name in names) for entry in value] if names else []
        found += [f"{place}: {key} comes twice" for key in set(keys) if keys.count(key) > 1]
        for index, inner in enumerate(value):
            found += repeated(inner, schema["items"], f"{place}[{index}]")
    return found
