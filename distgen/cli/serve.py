"""`distgen serve` and `distgen endpoint`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli.console import console, err_console, print_json, strong
from distgen.cli.keys import keys_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distgen.registry.bundle import BundleInfo
    from distgen.serving.deploy.detached import Detached
    from distgen.serving.making.references import Reference

endpoint_app = typer.Typer(
    help="Look at and end endpoints that `distgen serve --detach` started, and make their keys.",
    no_args_is_help=True,
)
endpoint_app.add_typer(keys_app, name="keys")

_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Each a run, a bundle, name, name@alias or name:version; NAME=MODEL serves it as "
            "NAME. Names and aliases are followed when they are promoted.",
        ),
    ],
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 8000,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; by default only this machine can connect. Another needs "
            "--keys."
        ),
    ] = "127.0.0.1",
    replicas: Annotated[
        int, typer.Option(help="Processes that each hold the model, one CPU each.", min=1)
    ] = 1,
    gpus_per_replica: Annotated[
        float, typer.Option(help="GPUs of each replica; a fraction shares one.", min=0)
    ] = 0.0,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="The most that weights may take in a replica, such as 2GiB; models beyond it are "
            "loaded when they are asked for.",
        ),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Who may use it, as `distgen endpoint keys add` writes it. Every node with a "
            "replica must be able to read it under this path.",
        ),
    ] = None,
    root: Annotated[str, typer.Option(help="Path of the model store.")] = "models",
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

    keys = require_keys(host, keys)
    memory_bytes = _bytes_of(memory)
    infos = [(found.name, _inspected(found)) for found in references(models, root)]
    if not detach:
        options: dict[str, Any] = {"replicas": replicas, "gpus_per_replica": gpus_per_replica}
        options |= {"root": root, "memory_bytes": memory_bytes, "keys": keys}
        _serve_here(models, infos, address, as_json, host=host, port=port, **options)
        return
    from distgen.core.ports import url_of
    from distgen.serving.deploy import detached

    # With an address the endpoint listens on that cluster's head, which looks at the port itself.
    if address is None or not port:
        port = _free_to_use(host, port)
    arguments = [f"--port={port}", f"--host={host}", f"--root={root}"]
    arguments += [f"--replicas={replicas}", f"--gpus-per-replica={gpus_per_replica}"]
    arguments += [f"--memory={memory_bytes}"] if memory_bytes else []
    arguments += [f"--address={address}"] if address else []
    arguments += [f"--keys={keys}"] if keys else []
    with err_console.status(f"Starting {_names(infos)} ..."):
        endpoint = detached.start(
            [*arguments, "--", *models], model=" ".join(models), url=url_of(host, port)
        )
    _announce(endpoint.url, infos, as_json, needs_key=keys is not None)
    if not as_json:
        console.print(f"  log      {endpoint.log}")
        console.print("  stop     distgen endpoint stop")


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


def _bytes_of(memory: str | None) -> int | None:
    from distgen.core.errors import UsageError
    from distgen.core.sizes import parse_bytes

    try:
        return None if memory is None else parse_bytes(memory)
    except ValueError as error:
        raise UsageError(f"{error}.", where="--memory", remedy="--memory 2GiB") from error


def _inspected(reference: Reference) -> BundleInfo:
    from distgen.registry.bundle import inspect_bundle

    return inspect_bundle(reference.standing().champion.location)


def _names(infos: Sequence[tuple[str, BundleInfo]]) -> str:
    return ", ".join(name for name, _ in infos)


def _serve_here(
    models: Sequence[str],
    infos: Sequence[tuple[str, BundleInfo]],
    address: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Serve until a signal."""
    import signal
    from contextlib import ExitStack

    from distgen.launch.cluster import connect
    from distgen.serving.deploy.endpoint import running

    if address is None:
        _free_to_use(options["host"], options["port"])
    try:
        with ExitStack() as stack:
            with err_console.status(f"Starting {_names(infos)} ..."):
                stack.enter_context(connect(address))
                end_on_signals()  # Ray would end the process where it stands
                url = stack.enter_context(running(*models, **options))
            _announce(url, infos, as_json, needs_key=options["keys"] is not None)
            if not as_json:
                console.print("  stop     Ctrl-C")
            while True:
                signal.pause()
    except KeyboardInterrupt:
        err_console.print("The endpoint has ended.")


def end_on_signals() -> None:
    """SIGTERM, and SIGHUP from a terminal that closes, end as cleanly as Ctrl-C does."""
    import signal

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(number, signal.default_int_handler)


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
