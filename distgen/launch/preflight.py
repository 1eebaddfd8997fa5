"""Before the first step: there are places, and every node that may get a rank has what it needs.

A run that finds out later has taken its place in the cluster, and has started workers, for an error
that comes from one node of many, and after minutes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing

from distgen.core import reach
from distgen.core.errors import UsageError
from distgen.core.finding import Finding
from distgen.core.reach import Mark, Witness
from distgen.core.storage import locate
from distgen.data import ShardSet, has_split, open_shard_set
from distgen.data.index import INDEX_NAME, MANIFEST_NAME
from distgen.data.streaming.mixed import MixedSet, Pictures
from distgen.launch.cluster import Connection, Room, slots
from distgen.launch.examine import MEMORY, Look, essentials
from distgen.launch.probe import NoAnswer, Node, Probes, living_nodes
from distgen.training.job import TrainJob
from distgen.training.scaling import ScalingConfig
from distgen.training.sizes import checkpoint_bytes, rank_bytes

ANSWER_S = 3 * reach.ANSWER_S
"""For storage and shards that do not answer to be named, rather than their node."""
NCCL_BYTES_PER_RANK = 32 * 2**20
"""About 10 MB of /dev/shm for each neighbour on the same host."""


def require_room(scaling: ScalingConfig, room: Room) -> None:
    """Refuse workers that the cluster can never give, before Ray waits for them.

    Raises:
        UsageError: Says what was asked for, what there is, and how many would fit.
    """
    need = scaling.per_worker
    fit, fewest = slots(room.nodes, need), scaling.fewest
    if fit >= fewest or room.can_grow:
        return
    each = f"{scaling.cpus_per_worker:g} CPUs"
    if scaling.gpus_per_worker:
        each += f" and {scaling.gpus_per_worker:g} GPUs"
    smaller = f"scaling.workers={fit}" if fit else "fewer CPUs or GPUs per worker"
    raise UsageError(
        f"scaling.workers: {fewest} workers with {each} each do not fit into this "
        f"cluster, which has {room}.",
        cause=f"there is room for {fit} of them",
        remedy=f"{smaller}, or a larger cluster (--address, `distgen cluster up --nodes N`)",
    )


def require_fit_nodes(
    job: TrainJob, pictures: Pictures, connection: Connection, on_message: Callable[[str], None]
) -> None:
    """Refuse a run that a node could not take part in; a second or two where all is well.

    Args:
        job: The run, with absolute paths.
        pictures: What it trains on.
        connection: The cluster.
        on_message: Told of what works, but not as well as it could, and of nodes that are silent:
            Ray will notice if they are gone, and place the ranks elsewhere.

    Raises:
        UsageError: Names the node, what is wrong there, and the remedy.
    """
    need = job.scaling.per_worker
    everywhere = living_nodes()
    nodes = [node for node in everywhere if slots([node.resources], need)]
    named, witnesses = job.data.shards, witnesses_of(job, pictures)
    size = checkpoint_bytes(job, pictures.spec)
    in_memory = 0 if job.scaling.gpus_per_worker else rank_bytes(job, pictures.spec)
    alone = len({node.address for node in everywhere}) == 1
    try:
        with reach.marked(job.storage) as mark:
            looks = {
                node: Look(
                    name=node.id,
                    address=node.address,
                    sessions=node.sessions,
                    storage=job.storage,
                    alone=alone,
                    mark=mark,
                    shards=named,
                    witnesses=witnesses,
                    checkpoint_bytes=size,
                    shared_memory_bytes=_shared_memory(job, slots([node.resources], need)),
                    memory_bytes=in_memory,
                )
                for node in nodes
            }
            found = _look(looks, connection)
    except OSError as error:
        refused = reach.unwritable(job.storage, error)
        raise UsageError(f"This machine: {refused.text}.", remedy=refused.remedy) from error
    require_memory(found.values())
    ask = "distgen doctor" + ("" if connection.started_here else f" --address {connection.address}")
    judge({node.name: answer for node, answer in found.items()}, on_message, ask)


def require_memory(found: Iterable[Sequence[Finding] | NoAnswer]) -> None:
    """Refuse networks of which no node can hold what a rank keeps.

    Raises:
        UsageError: Every node that answers says so of itself.
    """
    answers = [answer for answer in found if not isinstance(answer, NoAnswer)]
    short = [f for answer in answers for f in answer if f.subject == MEMORY and f.verdict != "ok"]
    if short and len(short) == len(answers):
        raise UsageError(
            "These networks are too large for every node.",
            cause=short[0].text,
            remedy="smaller networks (model.width, model.blocks), or larger nodes",
        )


def judge(
    found: Mapping[str, Sequence[Finding] | NoAnswer],
    on_message: Callable[[str], None],
    ask: str = "distgen doctor",
) -> None:
    """Tell what nodes have warned of, each thing once; refuse where one has a problem.

    Args:
        found: What each node, by its name, has found of itself.
        on_message: Told of warnings, and of nodes that are silent.
        ask: The command that shows all of it.

    Raises:
        UsageError: Names the first such node and problem, the others, and the remedy.
    """
    places: dict[Finding, list[str]] = defaultdict(list)
    for name, answer in found.items():
        if isinstance(answer, NoAnswer):
            on_message(f"Node {name} {answer.why}; if it is lost, Ray notices.")
            continue
        for finding in answer:
            places[finding].append(name)
    for finding, names in places.items():
        if finding.verdict == "warning":
            on_message(f"{_nodes(names)}: {finding.subject}: {finding.text}. Try: {finding.remedy}")
    bad = [(finding, names) for finding, names in places.items() if finding.verdict == "problem"]
    if not bad:
        return
    (first, names), *others = bad
    more = [f"{_nodes(there)}: {finding.text}" for finding, there in others]
    raise UsageError(
        f"{_nodes(names)} cannot take part in this run: {_sentence(first)}.",
        cause=("also, " + "; ".join(more)) if more else None,
        remedy=f"{first.remedy}; to see all: {ask}",
    )


def witnesses_of(job: TrainJob, pictures: Pictures) -> tuple[Witness, ...]:
    """How the beginnings of the files that every rank opens look from here."""
    sets = list(pictures.sets if isinstance(pictures, MixedSet) else (pictures,))
    if has_split(job.data.shards, "test"):
        sets.append(open_shard_set(job.data.shards, "test"))
    return tuple(witness for each in sets for witness in witnesses_of_set(each))


def witnesses_of_set(shard_set: ShardSet) -> tuple[Witness, ...]:
    """How the manifest, the index and the first shard of a set look from here."""
    files = (
        shard_set.location / MANIFEST_NAME,
        shard_set.location / INDEX_NAME,
        shard_set.shard(0),
    )
    return tuple(map(reach.witness, files))


def _shared_memory(job: TrainJob, fit: int) -> int:
    """What the ranks of a node that holds `fit` of them take of `/dev/shm`."""
    if job.scaling.gpus_per_worker < 1:
        return 2**20  # gloo takes none; the lists of who shares pictures are small
    return NCCL_BYTES_PER_RANK * fit


def _look(
    looks: Mapping[Node, Look], connection: Connection
) -> dict[Node, list[Finding] | NoAnswer]:
    import ray

    here = ray.get_runtime_context().get_node_id()
    own = {
        node
        for node, look in looks.items()
        if node.id == here and (connection.started_here or _is_local(look.mark, look.witnesses))
    }
    others = {node: (look,) for node, look in looks.items() if node not in own}
    with closing(Probes(others)) as probes:
        probes.greet()
        found = probes.ask(essentials, others, ANSWER_S)
    return {node: essentials(looks[node]) if node in own else found[node] for node in looks}


def _is_local(mark: Mark | None, witnesses: Sequence[Witness]) -> bool:
    """Whether all places are on disks: a process of Ray may have other credentials than this."""
    places = [*([mark.folder] if mark else []), *(witness.place for witness in witnesses)]
    return all(locate(place).local is not None for place in places)


def _nodes(names: Sequence[str]) -> str:
    if len(names) > 2:
        return f"Node {names[0]} and {len(names) - 1} others"
    return f"Node {names[0]}" if len(names) == 1 else f"Nodes {names[0]} and {names[1]}"


def _sentence(finding: Finding) -> str:
    known = finding.text.startswith(finding.subject)
    return finding.text if known else f"{finding.subject}: {finding.text}"
