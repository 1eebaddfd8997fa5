"""`distgen serve` and `distgen endpoint`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli.console import console, err_console, print_json, strong
from distgen.cli.keys import keys_app

if TYPE_CHECKING:
    from distgen.core.storage import Location
    from distgen.registry.bundle import BundleInfo
    from distgen.serving.deploy.detached import Detached

endpoint_app = typer.Typer(
    help="Look at and end endpoints that `distgen serve --detach` started, and make their keys.",
    no_args_is_help=True,
)
endpoint_app.add_typer(keys_app, name="keys")

_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def serve(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A run, a bundle, name, name@alias or name:version."),
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
    """Serve a model over HTTP as the OpenAI Images API, until Ctrl-C."""
    from distgen.registry.bundle import inspect_bundle
    from distgen.registry.resolve import resolve_model
    from distgen.serving.http.gate.needed import require_keys

    keys = require_keys(host, keys)
    location = resolve_model(model, root)
    info = inspect_bundle(location)
    if not detach:
        options = {"replicas": replicas, "gpus_per_replica": gpus_per_replica, "keys": keys}
        _serve_here(location, info, address, as_json, host=host, port=port, **options)
        return
    from distgen.core.ports import url_of
    from distgen.serving.deploy import detached

    # With an address the endpoint listens on that cluster's head, which looks at the port itself.
    if address is None or not port:
        port = _free_to_use(host, port)
    arguments = [location.url, f"--port={port}", f"--host={host}"]
    arguments += [f"--replicas={replicas}", f"--gpus-per-replica={gpus_per_replica}"]
    arguments += [f"--address={address}"] if address else []
    arguments += [f"--keys={keys}"] if keys else []
    with err_console.status(f"Starting {info.name} ..."):
        endpoint = detached.start(arguments, model=model, url=url_of(host, port))
    _announce(endpoint.url, info, as_json, needs_key=keys is not None)
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


def _serve_here(
    location: Location, info: BundleInfo, address: str | None, as_json: bool, **placement: Any
) -> None:
    """Serve until a signal."""
    import signal
    from contextlib import ExitStack

    from distgen.launch.cluster import connect
    from distgen.serving.deploy.endpoint import running

    if address is None:
        _free_to_use(placement["host"], placement["port"])
    try:
        with ExitStack() as stack:
            with err_console.status(f"Starting {info.name} ..."):
                stack.enter_context(connect(address))
                end_on_signals()  # Ray would end the process where it stands
                url = stack.enter_context(running(location, **placement))
            _announce(url, info, as_json, needs_key=placement["keys"] is not None)
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


def _announce(url: str, info: BundleInfo, as_json: bool, *, needs_key: bool = False) -> None:
    from distgen.serving.making.engine import card_line

    if as_json:
        print_json({"url": url, "model": info.name, "digest": info.digest})
        return
    classes = info.spec.classes if getattr(info.config.model, "conditional", False) else ()
    prompt = classes[0] if classes else "random"
    console.print(strong(info.name, f" is served at {url}"))
    about = f"{info.digest[:12]}  {card_line(info)}".rstrip()
    console.print(f"  bundle   {about}")
    if classes:
        console.print(f"  classes  {', '.join(classes)}")
    key = '-H "Authorization: Bearer $DISTGEN_API_KEY" ' if needs_key else ""
    console.print(
        f"  try      curl -s {url}/v1/images/generations {key}-d "
        f'\'{{"prompt": "{prompt}", "n": 4, "seed": 7}}\'',
    )
    console.print(f'  or       distgen query "{prompt}" --url {url}')
