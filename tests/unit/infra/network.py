"""What Kubernetes' network policies let through, by the rules of networking.k8s.io/v1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """Somebody in Kubernetes, or outside where there is no namespace."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str | None = None
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


def allowed(
    policies: Sequence[Policy], home: str, source: Pod, target: Pod, port: int, protocol: str
) -> bool:
    """Whether a connection is let through on both of its sides.

    Args:
        policies: All in the namespace `home`.
        home: Their namespace; pods of others are bound by none of them.
        source: Who asks.
        target: Who is asked.
        port: Of the target.
        protocol: TCP or UDP.
    """
    sides = (("Egress", "to", source, target), ("Ingress", "from", target, source))
    for direction, peers, bound, other in sides:
        binding = [
            policy["spec"]
            for policy in policies
            if bound.namespace == home
            and direction in policy["spec"]["policyTypes"]
            and _matches(policy["spec"]["podSelector"], bound.labels)
        ]
        rules = [rule for spec in binding for rule in spec.get(direction.lower(), [])]
        if binding and not any(
            _ports(rule, port, protocol) and _peers(rule.get(peers), home, other) for rule in rules
        ):
            return False
    return True


def _ports(rule: Mapping[str, Any], port: int, protocol: str) -> bool:
    entries = rule.get("ports")
    if not entries:
        return True
    return any(entry["port"] == port and entry["protocol"] == protocol for entry in entries)


def _peers(peers: Sequence[Mapping[str, Any]] | None, home: str, other: Pod) -> bool:
    if not peers:
        return True
    return any(_peer(peer, home, other) for peer in peers)


def _peer(peer: Mapping[str, Any], home: str, other: Pod) -> bool:
    assert not peer.keys() - {"podSelector", "namespaceSelector"}, "blocks of addresses: not here"
    if other.namespace is None:
        return False
    if "namespaceSelector" in peer:
        name = {"kubernetes.io/metadata.name": other.namespace}
        if not _matches(peer["namespaceSelector"], {**other.namespace_labels, **name}):
            return False
    elif other.namespace != home:
        return False
    return _matches(peer.get("podSelector", {}), other.labels)


def _matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert not selector.keys() - {"matchLabels"}, "expressions: not here"
    return selector.get("matchLabels", {}).items() <= labels.items()
