"""distgen's pods reach one another and their stores, and are reached for their endpoint only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.infra.network import Pod, allowed

ROOT = Path(__file__).parents[3]
FILE = ROOT / "infra" / "kubernetes" / "networkpolicy.yaml"
POLICIES: list[dict[str, Any]] = list(yaml.safe_load_all(FILE.read_text()))

OURS = {"app.kubernetes.io/part-of": "distgen"}
HEAD = Pod({**OURS, "ray.io/node-type": "head"}, "team")
WORKER = Pod({**OURS, "ray.io/node-type": "worker"}, "team")
REDIS = Pod({"app.kubernetes.io/name": "distgen-redis"}, "team")
NEIGHBOUR = Pod({"app": "notebook"}, "team")
INGRESS = Pod({"app": "nginx"}, "ingress", {"distgen-clients": "allowed"})
STRANGER = Pod({**OURS}, "elsewhere")
PROMETHEUS = Pod({"app.kubernetes.io/name": "prometheus"}, "monitoring")
GRAFANA = Pod({"app.kubernetes.io/name": "grafana"}, "monitoring")
FALSE_PROMETHEUS = Pod({"app.kubernetes.io/name": "prometheus"}, "team")
OPERATOR = Pod({"app.kubernetes.io/name": "kuberay-operator"}, "kuberay-system")
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system")
MINIO = Pod({"app": "minio"}, "minio")
INTERNET = Pod()

GCS, DASHBOARD, ENDPOINT, METRICS = 6379, 8265, 8000, 8080


def reaches(source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    return allowed(POLICIES, "team", source, target, port, protocol)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        (WORKER, HEAD, GCS),
        (HEAD, WORKER, 41_234),
        (WORKER, WORKER, 29_500),
        (HEAD, REDIS, 6379),
        (INGRESS, WORKER, ENDPOINT),
        (PROMETHEUS, WORKER, METRICS),
        (PROMETHEUS, HEAD, 44_217),
        (PROMETHEUS, HEAD, 44_227),
        (OPERATOR, HEAD, DASHBOARD),
        (WORKER, INTERNET, 443),
        (WORKER, MINIO, 9000),
        (HEAD, INTERNET, 6443),
    ],
)
def test_what_distgen_needs_is_let_through(source: Pod, target: Pod, port: int) -> None:
    assert reaches(source, target, port)


def test_names_are_looked_up_over_both_protocols() -> None:
    assert reaches(WORKER, DNS, 53, "UDP")
    assert reaches(WORKER, DNS, 53, "TCP")


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        *((INGRESS, HEAD, port) for port in (GCS, DASHBOARD, METRICS, 10_001, 52_365)),
        *((NEIGHBOUR, HEAD, port) for port in (GCS, DASHBOARD, METRICS, ENDPOINT)),
        (INTERNET, HEAD, ENDPOINT),
        (INTERNET, WORKER, METRICS),
        (STRANGER, HEAD, GCS),
        (GRAFANA, HEAD, METRICS),
        (FALSE_PROMETHEUS, HEAD, METRICS),
        (PROMETHEUS, HEAD, DASHBOARD),
        (OPERATOR, HEAD, GCS),
        (WORKER, INTERNET, 80),  # the metadata service of the node
        (WORKER, INTERNET, 22),
        (WORKER, INTERNET, 6443),
        (WORKER, NEIGHBOUR, 5432),
        (WORKER, MINIO, 9001),
        (WORKER, DNS, 22),
    ],
)
def test_everything_else_is_refused(source: Pod, target: Pod, port: int) -> None:
    assert not reaches(source, target, port)


def test_nobody_else_in_the_namespace_is_bound() -> None:
    assert reaches(NEIGHBOUR, INTERNET, 80)
    assert reaches(INTERNET, NEIGHBOUR, 80)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy["metadata"]["name"])
def test_a_policy_is_what_kubernetes_takes(policy: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(policy, "1.30", strict=True)
    assert "namespace" not in policy["metadata"], "kubectl says which"
