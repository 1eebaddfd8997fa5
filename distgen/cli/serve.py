"""`distgen serve`, `distgen query` and `distgen endpoint`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli.console import console, err_console, print_json

if TYPE_CHECKING:
    from distgen.core.storage import Location
    from distgen.registry.bundle import BundleInfo
    from distgen.serving.client import Answer
    from distgen.serving.detached import Detached

endpoint_app = typer.Typer(
    help="Look at and end endpoints that `distgen serve --detach` started.", no_args_is_help=True
)

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
        str, typer.Option(help="Address to listen on; by default only this machine can connect.")
    ] = "127.0.0.1",
    replicas: Annotated[
        int, typer.Option(help="Processes that each hold the model, one CPU each.", min=1)
    ] = 1,
    gpus_per_replica: Annotated[
        float, typer.Option(help="GPUs of each replica; a fraction shares one.", min=0)
    ] = 0.0,
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

    location = resolve_model(model, root)
    info = inspect_bundle(location)
    if not detach:
        options = {"replicas": replicas, "gpus_per_replica": gpus_per_replica}
        _serve_here(location, info, address, as_json, host=host, port=port, **options)
        return
    from distgen.core.ports import free_port, url_of
    from distgen.serving import detached

    port = port or free_port(host)
    _refuse_taken(host, port)
    arguments = [location.url, f"--port={port}", f"--host={host}"]
    arguments += [f"--replicas={replicas}", f"--gpus-per-replica={gpus_per_replica}"]
    arguments += [f"--address={address}"] if address else []
    with err_console.status(f"Starting {info.name} ..."):
        endpoint = detached.start(arguments, model=model, url=url_of(host, port), port=port)
    _announce(endpoint.url, info, as_json)
    if not as_json:
        console.print(f"  log      {endpoint.log}", soft_wrap=True)
        console.print("  stop     distgen endpoint stop")


def query(
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="[PROMPT]", help="A class name, class:7, or random for a class each."
        ),
    ] = "random",
    count: Annotated[int, typer.Option("-n", "--count", help="Number of pictures.")] = 16,
    out: Annotated[str, typer.Option(help="Where the grid of pictures goes, as PNG.")] = "grid.png",
    url: Annotated[
        str, typer.Option(help="The endpoint.", envvar="DISTGEN_URL")
    ] = "http://127.0.0.1:8000",
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same pictures; without it one is drawn.")
    ] = None,
    truncation: Annotated[
        float | None, typer.Option(help="Lower is more typical and less varied, such as 0.7.")
    ] = None,
    as_json: _JSON = False,
) -> None:
    """Ask an endpoint for pictures and save them as one grid."""
    from distgen.core.storage import locate
    from distgen.metrics.grid import grid_png
    from distgen.serving.client import Client

    answer = Client(url).generate(prompt, count, seed, truncation)
    place = locate(out)
    place.write_bytes(grid_png(answer.images_nhwc))
    if as_json:
        print_json(_described(answer, place))
        return
    classes = sorted(set(answer.labels))
    of_what = f" of {classes[0]}" if len(classes) == 1 else ""
    plural = "picture" if len(answer.seeds) == 1 else "pictures"
    console.print(
        f"{len(answer.seeds)} {plural}{of_what} by {answer.model} ({answer.digest[:12]}), "
        f"seed {answer.seeds[0]}: {place}",
        soft_wrap=True,
        markup=False,
    )


@endpoint_app.command("status")
def endpoint_status(as_json: _JSON = False) -> None:
    """Say which detached endpoints run, and whether they answer."""
    from distgen.serving.detached import find_all

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
        console.print(text, soft_wrap=True, markup=False)


@endpoint_app.command("stop")
def endpoint_stop(
    url: Annotated[
        str | None, typer.Option(help="End this one only, as `endpoint status` prints it.")
    ] = None,
    as_json: _JSON = False,
) -> None:
    """End detached endpoints, all that this command's kind started or one of them."""
    from distgen.core.errors import UsageError, did_you_mean
    from distgen.serving.detached import find_all, stop

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
            console.print(f"{endpoint.model} at {endpoint.url} has ended.", markup=False)
    if as_json:
        print_json({"stopped": [endpoint.url for endpoint in endpoints]})
    elif not endpoints:
        console.print("No endpoint runs.")


def _serve_here(
    location: Location, info: BundleInfo, address: str | None, as_json: bool, **placement: Any
) -> None:
    """Serve until a signal; SIGTERM ends as cleanly as Ctrl-C does."""
    import signal
    from contextlib import ExitStack

    from distgen.launch.cluster import connect
    from distgen.serving.app import running

    if address is None:
        _refuse_taken(placement["host"], placement["port"])
    try:
        with ExitStack() as stack:
            with err_console.status(f"Starting {info.name} ..."):
                stack.enter_context(connect(address))
                # Ray would end the process where it stands.
                signal.signal(signal.SIGTERM, signal.default_int_handler)
                url = stack.enter_context(running(location, **placement))
            _announce(url, info, as_json)
            if not as_json:
                console.print("  stop     Ctrl-C")
            while True:
                signal.pause()
    except KeyboardInterrupt:
        err_console.print("The endpoint has ended.")


def _refuse_taken(host: str, port: int) -> None:
    """Say at once that the port is taken, before Ray starts."""
    from distgen.core.errors import UsageError
    from distgen.core.ports import free_port, is_free

    try:
        free = not port or is_free(host, port)
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


def _announce(url: str, info: BundleInfo, as_json: bool) -> None:
    from distgen.serving.engine import card_line

    if as_json:
        print_json({"url": url, "model": info.name, "digest": info.digest})
        return
    classes = info.spec.classes if getattr(info.config.model, "conditional", False) else ()
    prompt = classes[0] if classes else "random"
    console.print(f"[bold]{info.name}[/bold] is served at {url}", soft_wrap=True)
    about = f"{info.digest[:12]}  {card_line(info)}".rstrip()
    console.print(f"  bundle   {about}", soft_wrap=True, markup=False)
    if classes:
        console.print(f"  classes  {', '.join(classes)}", soft_wrap=True, markup=False)
    console.print(
        f"  try      curl -s {url}/v1/images/generations -d "
        f'\'{{"prompt": "{prompt}", "n": 4, "seed": 7}}\'',
        soft_wrap=True,
        markup=False,
    )
    console.print(f'  or       distgen query "{prompt}" --url {url}', soft_wrap=True, markup=False)


def _described(answer: Answer, place: Location) -> dict[str, object]:
    return {
        "out": place.url,
        "model": answer.model,
        "digest": answer.digest,
        "seeds": list(answer.seeds),
        "classes": list(answer.labels),
    }
