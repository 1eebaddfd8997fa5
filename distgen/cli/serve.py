"""`distgen serve` and `distgen endpoint`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli.console import console, err_console, print_json, strong
from distgen.cli.keys import keys_app
from distgen.cli.signals import end_on_signals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distgen.registry.bundle import BundleInfo
    from distgen.serving.deploy.detached import Detached
    from distgen.serving.job import ServeJob
    from distgen.serving.making.references import Reference

endpoint_app = typer.Typer(
    help="Look at and end endpoints that `distgen serve --detach` started, make their keys, or "
    "write an endpoint down for a cluster.",
    no_args_is_help=True,
)
endpoint_app.add_typer(keys_app, name="keys")

_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


_MODELS = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="Each a run, a bundle, name, name@alias or name:version; NAME=MODEL serves it as "
        "NAME. Names and aliases are followed when they are promoted. Or a job file of kind serve, "
        "and KEY=VALUE to change it.",
    ),
]
_PORT = Annotated[
    int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)
]
_HOST = Annotated[
    str,
    typer.Option(
        help="Address to listen on; by default only this machine can connect. Another needs --keys."
    ),
]
_REPLICAS = Annotated[
    str,
    typer.Option(
        metavar="N|MIN-MAX",
        help="Processes that each hold the model, one CPU each; 1-4: as many as the load wants.",
    ),
]
_GPUS = Annotated[float, typer.Option(help="GPUs of each replica; a fraction shares one.", min=0)]
_MEMORY = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="The most that weights may take in a replica, such as 2GiB; models beyond it are "
        "loaded when they are asked for.",
    ),
]
_KEYS = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Who may use it, as `distgen endpoint keys add` writes it. Every node with a "
        "replica must be able to read it under this path.",
    ),
]
_ROOT = Annotated[str, typer.Option(help="Path of the model store.")]


def serve(
    context: typer.Context,
    models: _MODELS,
    port: _PORT = 8000,
    host: _HOST = "127.0.0.1",
    replicas: _REPLICAS = "1",
    gpus_per_replica: _GPUS = 0.0,
    memory: _MEMORY = None,
    keys: _KEYS = None,
    root: _ROOT = "models",
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster's address; without it, one is started for this endpoint."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once it answers, and leave it running.")
    ] = False,
    as_json: _JSON = False,
) -> None:
    """Serve models over HTTP as the OpenAI Images API, until Ctrl-C; the first is the default."""
    from distgen.serving.http.gate.needed import require_keys
    from distgen.serving.making.references import references

    job = _job(
        context,
        models,
        port=port,
        host=host,
        replicas=replicas,
        gpus_per_replica=gpus_per_replica,
        memory=memory,
        keys=keys,
        root=root,
    )
    keys = require_keys(job.host, job.keys)
    infos = [(found.name, _inspected(found)) for found in references(job.all_models, job.root)]
    if not detach:
        _serve_here(job, infos, address, as_json)
        return
    from distgen.core.ports import url_of
    from distgen.serving.deploy import detached

    port = job.port
    # With an address the endpoint listens on that cluster's head, which looks at the port itself.
    if address is None or not port:
        port = _free_to_use(job.host, port)
    count = "-".join(map(str, job.replicas)) if isinstance(job.replicas, tuple) else job.replicas
    arguments = [f"--port={port}", f"--host={job.host}", f"--root={job.root}"]
    arguments += [f"--replicas={count}", f"--gpus-per-replica={job.gpus_per_replica}"]
    arguments += [f"--memory={job.memory}"] if job.memory else []
    arguments += [f"--address={address}"] if address else []
    arguments += [f"--keys={keys}"] if keys else []
    with err_console.status(f"Starting {_names(infos)} ..."):
        endpoint = detached.start(
            [*arguments, "--", *job.all_models],
            model=" ".join(job.all_models),
            url=url_of(job.host, port),
        )
    _announce(endpoint.url, infos, as_json, needs_key=keys is not None)
    if not as_json:
        console.print(f"  log      {endpoint.log}")
        console.print("  stop     distgen endpoint stop")


@endpoint_app.command("emit")
def endpoint_emit(
    context: typer.Context,
    models: _MODELS,
    port: _PORT = 8000,
    host: _HOST = "127.0.0.1",
    replicas: _REPLICAS = "1",
    gpus_per_replica: _GPUS = 0.0,
    memory: _MEMORY = None,
    keys: _KEYS = None,
    root: _ROOT = "models",
) -> None:
    """Print the Serve config file of an endpoint: for KubeRay's RayService, or `serve deploy`.

    Paths are made absolute here, and must be there on the cluster too.
    """
    from distgen.core.config import to_yaml
    from distgen.serving.deploy.emit import serve_config
    from distgen.serving.job import with_absolute_paths
    from distgen.serving.making.references import references

    job = _job(
        context,
        models,
        port=port,
        host=host,
        replicas=replicas,
        gpus_per_replica=gpus_per_replica,
        memory=memory,
        keys=keys,
        root=root,
    )
    job = with_absolute_paths(job)
    references(job.all_models, job.root)
    sys.stdout.write(to_yaml(serve_config(job)))


@endpoint_app.command("status")
def endpoint_status(as_json: _JSON = False) -> None:
    """Say which detached endpoints run, and whether they answer."""
    from distgen.serving.deploy.detached import find_all

    rows = [
        {"model": e.model, "url": e.url, "ready": e.is_ready(), "pid": e.pid, "log": e.log}
        for e in find_all()
    ]
    if as_json:
        print_json({"endpoints": rows})
        return
    if not rows:
        console.print("No endpoint runs; start one with: distgen serve MODEL --detach")
    for row in rows:
        state = "ready" if row["ready"] else "not ready"
        text = f"{row['model']}  {row['url']}  {state}  pid {row['pid']}  {row['log']}"
        console.print(text)


@endpoint_app.command("stop")
def endpoint_stop(
    url: Annotated[
        str | None, typer.Option(help="End this one only, as `endpoint status` prints it.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="End instead what a killed `distgen serve` left on this Ray cluster."),
    ] = None,
    as_json: _JSON = False,
) -> None:
    """End detached endpoints of this machine, all or one of them, or what a cluster serves."""
    from distgen.core.errors import UsageError, did_you_mean
    from distgen.serving.deploy.detached import find_all, stop

    if address is not None:
        if url is not None:
            raise UsageError("--url and --address name different things.", remedy="leave one out")
        _stop_on_cluster(address, as_json)
        return
    endpoints: list[Detached] = find_all()
    if url is not None:
        known = [endpoint.url for endpoint in endpoints]
        endpoints = [endpoint for endpoint in endpoints if endpoint.url == url.rstrip("/")]
        if not endpoints:
            remedy = did_you_mean(url, known) if known else "distgen endpoint status"
            raise UsageError(f"No detached endpoint of yours runs at {url!r}.", remedy=remedy)
    for endpoint in endpoints:
        stop(endpoint)
        if not as_json:
            console.print(f"{endpoint.model} at {endpoint.url} has ended.")
    if as_json:
        print_json({"stopped": [endpoint.url for endpoint in endpoints]})
    elif not endpoints:
        console.print("No endpoint runs.")


def _stop_on_cluster(address: str, as_json: bool) -> None:
    from distgen.launch.cluster import connect
    from distgen.serving.deploy.endpoint import stop_leftover

    with connect(address):
        stopped = stop_leftover()
    if as_json:
        print_json({"stopped": [address] if stopped else []})
    else:
        what = "The endpoint" if stopped else "No endpoint of distgen's"
        console.print(f"{what} on {address} {'has ended' if stopped else 'runs'}.")


def _job(context: typer.Context, models: Sequence[str], **given: Any) -> ServeJob:
    """The endpoint that is asked for, by a job file with overrides or by options.

    Raises:
        UsageError: Something is wrong with it, or both are used.
    """
    from distgen.cli.kinds import read_job
    from distgen.core.config import parse
    from distgen.core.errors import UsageError
    from distgen.serving.job import ServeJob, parse_replicas

    if models[0].endswith((".yaml", ".yml")):
        for name, value in given.items():
            source = context.get_parameter_source(name)
            if source is not None and source.name != "DEFAULT":
                option = f"--{name.replace('_', '-')}"
                raise UsageError(
                    f"{option} does not go with a job file.",
                    where=models[0],
                    remedy=f"distgen {context.info_name} {models[0]} {name}={value}",
                )
        job: ServeJob = read_job(models[0], models[1:], "serve")
        return job
    try:
        given["replicas"] = parse_replicas(given["replicas"])
    except ValueError as error:
        raise UsageError(f"{error}.", where="--replicas", remedy="--replicas 2") from error
    return parse(ServeJob, {"models": [*models], **given}, "distgen serve")


def _inspected(reference: Reference) -> BundleInfo:
    from distgen.registry.bundle import inspect_bundle

    return inspect_bundle(reference.standing().champion.location)


def _names(infos: Sequence[tuple[str, BundleInfo]]) -> str:
    return ", ".join(name for name, _ in infos)


def _serve_here(
    job: ServeJob, infos: Sequence[tuple[str, BundleInfo]], address: str | None, as_json: bool
) -> None:
    """Serve until a signal."""
    import signal
    from contextlib import ExitStack

    from distgen.launch.cluster import connect
    from distgen.serving.deploy.endpoint import running

    # On a cluster the endpoint listens on the head, which looks at the port itself.
    if address is None and not os.environ.get("RAY_ADDRESS"):
        _free_to_use(job.host, job.port)
    endpoint = running(
        *job.all_models,
        root=job.root,
        memory_bytes=job.memory,
        host=job.host,
        port=job.port,
        replicas=job.replicas,
        gpus_per_replica=job.gpus_per_replica,
        keys=job.keys,
    )
    try:
        with ExitStack() as stack:
            with err_console.status(f"Starting {_names(infos)} ..."):
                stack.enter_context(connect(address))
                end_on_signals()  # Ray would end the process where it stands
                url = stack.enter_context(endpoint)
            _announce(url, infos, as_json, needs_key=job.keys is not None)
            if not as_json:
                console.print("  stop     Ctrl-C")
            while True:
                signal.pause()
    except KeyboardInterrupt:
        err_console.print("The endpoint has ended.")


def _free_to_use(host: str, port: int) -> int:
    """The port, or a free one for 0; that it is taken is said at once, before Ray starts."""
    from distgen.core.errors import UsageError
    from distgen.core.ports import free_port, is_free

    try:
        port = port or free_port(host)
        free = is_free(host, port)
    except OSError as error:
        raise UsageError(
            f"The endpoint cannot listen on port {port} of {host}.",
            cause=str(error),
            remedy="--host with an address of this machine, --port with 1024 or more",
        ) from error
    if not free:
        raise UsageError(
            f"Port {port} of {host} is taken.",
            cause="another endpoint or another program listens there",
            remedy=f"--port {free_port(host)}, or end the other: distgen endpoint status",
        )
    return port


def _announce(
    url: str,
    infos: Sequence[tuple[str, BundleInfo]],
    as_json: bool,
    *,
    needs_key: bool = False,
) -> None:
    from distgen.serving.making.engine import card_line

    first, info = infos[0]
    if as_json:
        rows = [{"name": name, "digest": one.digest} for name, one in infos]
        print_json({"url": url, "model": first, "digest": info.digest, "models": rows})
        return
    for name, one in infos:
        console.print(strong(name, f" is served at {url}"))
        about = f"{one.digest[:12]}  {card_line(one)}".rstrip()
        console.print(f"  bundle   {about}")
        if classes := _classes(one):
            console.print(f"  classes  {', '.join(classes)}")
    prompt = (_classes(info) or ("random",))[0]
    key = '-H "Authorization: Bearer $DISTGEN_API_KEY" ' if needs_key else ""
    console.print(
        f"  try      curl -s {url}/v1/images/generations {key}-d "
        f'\'{{"prompt": "{prompt}", "n": 4, "seed": 7}}\'',
    )
    console.print(f'  or       distgen query "{prompt}" --url {url}')


def _classes(info: BundleInfo) -> tuple[str, ...]:
    return info.spec.classes if getattr(info.config.model, "conditional", False) else ()
