"""Everything that can be known about a cluster, or this machine, before a run is lost to it."""

from __future__ import annotations

import http.client
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from distgen.core import machine, peers, reach
from distgen.core.errors import DistgenError
from distgen.core.finding import Finding, ok, problem, warning
from distgen.core.ports import free_port, is_loopback
from distgen.core.reach import Mark, Witness
from distgen.core.software import versions
from distgen.launch.cluster import Connection, Room
from distgen.launch.examine import Look, everything
from distgen.launch.probe import NoAnswer, Node, Probes, living_nodes, lost_nodes
from distgen.training import all_reduce

GREET_S = 60.0
EXAMINE_S = 240.0
"""For a busy machine to load torch, and for places that do not answer."""
NETWORK_S = 30.0
_PORTS = {
    6379: "`distgen cluster up` takes another for its head by itself",
    8265: "`distgen cluster up` takes another for its dashboard by itself",
    8000: "distgen serve --port",
}
_OPEN = "open all TCP ports between the nodes: ranks meet at free ones"


@dataclass(frozen=True)
class Wishes:
    """What a run would need, as far as it is known."""

    storage: str
    """Absolute path or URL of the folder that would hold runs."""
    shards: str | None = None
    """Path or URL of the shard set that would be read."""


@dataclass
class Report:
    """What was found on one machine, or of the cluster as a whole."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    node: Node | None = None


def examine_machine(wishes: Wishes) -> Report:
    """Look at this machine alone; Ray is not started."""
    report = Report("this machine")
    address = _own_address()
    with ExitStack() as stack:
        mark, witnesses, failed = _prepare(wishes, stack)
        look = Look(
            name="here",
            address=address,
            sessions=os.environ.get("RAY_TMPDIR") or "/tmp",  # noqa: S108  (only its disk)
            storage=wishes.storage,
            mark=mark,
            shards=wishes.shards if wishes.shards and witnesses else "",
            witnesses=witnesses,
        )
        report.findings = everything(look, versions(), None)
    report.findings += [*failed, machine.free_ports(_PORTS)]
    return report


def examine_cluster(
    connection: Connection,
    wishes: Wishes,
    token: Finding,
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[Report]:
    """Look at every node of a cluster, and at what is between them.

    Args:
        connection: The cluster.
        wishes: What a run would need.
        token: What was found of this machine's token before it was used, which mends its mode.
        on_progress: Told what is being done.

    Returns:
        One report for each node, the head first, and one for the cluster.
    """
    nodes = living_nodes()
    whole = Report(
        f"cluster at {connection.address}", [membership(connection.room(), lost_nodes())]
    )
    reports = {node: Report(_title(node), node=node) for node in nodes}
    on_progress(f"looking at {len(nodes)} nodes")
    with closing(Probes(nodes)) as probes:
        probes.greet(GREET_S)
        with ExitStack() as stack:
            mark, witnesses, failed = _prepare(wishes, stack)
            whole.findings += failed
            _examine_each(probes, reports, _Asked(wishes, mark, witnesses))
        on_progress("comparing clocks")
        for node, report in reports.items():
            exchanges = probes.exchanges(node)
            if not isinstance(exchanges, NoAnswer):
                report.findings.append(peers.clock(exchanges))
        on_progress("dialling between nodes")
        _dial(probes, reports, connection.address)
        if len(nodes) > 1:
            on_progress("sending between nodes")
            _send(probes, reports)
            on_progress("summing over all nodes")
            whole.findings.append(_sum(probes, nodes))
        # Its dashboard may listen on the head's loopback only.
        heads = {node: (connection.dashboard_url,) for node in nodes if node.is_head}
        answers = probes.ask(asks_for_token, heads, NETWORK_S).values()
        whole.findings += [answer for answer in answers if not isinstance(answer, NoAnswer)]
    _mind_own_token(reports.values(), token)
    return [*reports.values(), whole]


def membership(room: Room, lost: Sequence[str]) -> Finding:
    """What the cluster has, and which nodes it had."""
    if not lost:
        return ok("nodes", str(room))
    remedy = "start Ray there again; on this machine: distgen cluster down, then up"
    return warning("nodes", f"{room}; lost since its head started: {', '.join(lost)}", remedy)


@dataclass(frozen=True)
class _Asked:
    wishes: Wishes
    mark: Mark | None
    witnesses: tuple[Witness, ...]


def _prepare(
    wishes: Wishes, stack: ExitStack
) -> tuple[Mark | None, tuple[Witness, ...], list[Finding]]:
    """What other nodes are to see; and what already this machine does not."""
    mark: Mark | None = None
    witnesses: tuple[Witness, ...] = ()
    failed = []
    try:
        mark = stack.enter_context(reach.marked(wishes.storage))
    except (OSError, DistgenError) as error:
        failed.append(reach.unwritable(wishes.storage, error))
    if wishes.shards:
        try:
            witnesses = _witnesses(wishes.shards)
        except DistgenError as error:
            failed.append(problem("shards", error.what.rstrip("."), error.remedy or "--shards"))
        except OSError as error:
            failed.append(problem("shards", f"cannot be read: {error}", "--shards"))
    return mark, witnesses, failed


def _witnesses(url: str) -> tuple[Witness, ...]:
    from distgen.data import open_shard_set, splits_of
    from distgen.launch.preflight import witnesses_of_set

    sets = [open_shard_set(url, split) for split in splits_of(url) or (None,)]
    return tuple(witness for each in sets for witness in witnesses_of_set(each))


def _examine_each(probes: Probes, reports: Mapping[Node, Report], asked: _Asked) -> None:
    alone = len({node.address for node in reports}) == 1
    here = versions()
    looks = {
        node: Look(
            name=node.id,
            address=node.address,
            sessions=node.sessions,
            storage=asked.wishes.storage,
            alone=alone,
            mark=asked.mark,
            shards=(asked.wishes.shards or "") if asked.witnesses else "",
            witnesses=asked.witnesses,
        )
        for node in reports
    }
    arguments = {node: (look, here, node.resources.get("GPU", 0.0)) for node, look in looks.items()}
    for node, answer in probes.ask(everything, arguments, EXAMINE_S).items():
        if isinstance(answer, NoAnswer):
            remedy = "look at its raylet and its log there; install the same distgen as here"
            answer = [problem("node", answer.why, remedy)]
        reports[node].findings += answer


def _dial(probes: Probes, reports: Mapping[Node, Report], head: str) -> None:
    """Whether every node reaches the ports of Ray on all others."""
    host, _, gcs_port = head.rpartition(":")
    asked = {}
    for node in reports:
        targets = [("the head", host.strip("[]"), int(gcs_port))]
        for other in reports:
            if other is not node:
                targets += [
                    (f"{what} of {other.name}", other.address, port)
                    for what, port in other.ports.items()
                ]
        asked[node] = (targets,)
    for node, missing in probes.ask(peers.unreachable, asked, NETWORK_S).items():
        if isinstance(missing, NoAnswer):
            continue
        count = len(asked[node][0])
        reports[node].findings.append(
            problem("ports", "cannot reach " + "; ".join(missing[:3]), _OPEN)
            if missing
            else ok("ports", f"reaches {count} of Ray's on the head and all other nodes")
        )


def _send(probes: Probes, reports: Mapping[Node, Report]) -> None:
    """Each node to the next, all at the same time, as a ring of ranks does."""
    word = secrets.token_bytes(16)
    places = probes.ask(listen, {node: (node.address, word) for node in reports}, NETWORK_S)
    ring = [node for node in reports if not isinstance(places[node], NoAnswer)]
    after = dict(zip(ring, [*ring[1:], *ring[:1]], strict=True))
    asked = {node: (other.address, places[other], word) for node, other in after.items()}
    for node, speed in probes.ask(peers.send_for, asked, NETWORK_S).items():
        reports[node].findings.append(
            problem("bandwidth", f"cannot send to {after[node].name}: {speed.why}", _OPEN)
            if isinstance(speed, NoAnswer)
            else peers.bandwidth(after[node].name, speed)
        )


def _sum(probes: Probes, nodes: Sequence[Node]) -> Finding:
    """The time of a sum over all nodes that answer."""
    hello = probes.ask(time.time, dict.fromkeys(nodes, ()), NETWORK_S)
    ranks = [node for node in nodes if not isinstance(hello[node], NoAnswer)]
    if len(ranks) < 2:
        return warning("all-reduce", "not measured: too few nodes answer", "mend the others first")
    first = ranks[0]
    port = probes.ask(free_port, {first: (first.address,)}, NETWORK_S)[first]
    host = f"[{first.address}]" if ":" in first.address else first.address
    asked = {
        node: (rank, len(ranks), f"{host}:{port}", node.address) for rank, node in enumerate(ranks)
    }
    answers = probes.ask(sum_here, asked, 3 * all_reduce.MEETING_S)
    for node, answer in answers.items():
        if isinstance(answer, NoAnswer):
            return problem("all-reduce", f"failed on {node.name}: {answer.why}", _OPEN)
    return all_reduce.judge(max(answers.values()), len(ranks))


def listen(host: str, word: bytes) -> int:
    """On a node: take what the node before it sends; the port where."""
    return peers.Listener(host, word).port


def sum_here(rank: int, size: int, meeting: str, address: str) -> float:
    """On a node: its part of a sum over all nodes, by the interface that a run would take."""
    return all_reduce.all_reduce_aside(rank, size, meeting, machine.gloo_interface(address))


def asks_for_token(dashboard_url: str | None) -> Finding:
    """Whether the cluster refuses those who have no token, asked for real on its head."""
    if dashboard_url is None:
        return warning("auth", "no dashboard to ask", "start the head with its dashboard")
    parts = urlsplit(dashboard_url)
    host, port = parts.hostname or "", parts.port or 80
    connection = http.client.HTTPConnection(host, port, timeout=5.0)
    try:
        connection.request("GET", "/api/jobs/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return warning("auth", f"the dashboard does not answer: {error}", "look at its log")
    finally:
        connection.close()
    if status in (401, 403):
        return ok("auth", "refuses those who have no token")
    if status != http.client.OK:
        return warning("auth", f"the dashboard answers with status {status}", "look at its log")
    seen = f"{dashboard_url} answers without a token"
    remedy = "distgen cluster up; or RAY_AUTH_MODE=token on every node before Ray starts"
    if is_loopback(host):
        who = "every user of the head can run code on all nodes"
        return warning("auth", f"{seen}: {who}", remedy)
    return problem("auth", f"{seen}: who reaches it can run code on all nodes", remedy)


def _mind_own_token(reports: Iterable[Report], token: Finding) -> None:
    """Say of the token on this machine what was found before connecting tightened it."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    for report in reports:
        if report.node is not None and report.node.id == here and token.verdict != "ok":
            others = [each for each in report.findings if each.subject != token.subject]
            report.findings = [*others, token]


def _title(node: Node) -> str:
    return f"head {node.name}" if node.is_head else f"node {node.name}"


def _own_address() -> str:
    """The address that Ray would give this machine."""
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())
