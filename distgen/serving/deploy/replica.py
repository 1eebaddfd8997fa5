"""What Ray Serve deploys: replicas that each hold the model and answer HTTP.

`distgen serve` starts them itself; a Serve config file, as in KubeRay's RayService, names `build`
as its `import_path`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.schema import LoggingConfig

from distgen.core.config import Config, parse
from distgen.core.storage import locate
from distgen.launch.monitoring import watch_queue
from distgen.registry.bundle import load_bundle
from distgen.registry.resolve import resolve_model
from distgen.serving.http.app import create_app
from distgen.serving.http.gate.keyring import Keyring
from distgen.serving.making.engine import MAX_WAITING, Engine, info_of, network_of
from distgen.serving.making.shelf import Shelf

DEPLOYMENT = "images"
"""The deployment's name, under which a Serve config file gives it replicas and GPUs."""


class EndpointConfig(Config):
    """What a Serve config file tells an endpoint under `args`."""

    model: str
    """A run or a bundle, as path or URL, or `name`, `name@alias`, `name:version` of the store."""
    root: str = "models"
    """Path of the model store."""
    keys: str | None = None
    """The file of keys, which every node with a replica must be able to read; without one, whoever
    reaches the endpoint may use it."""


def build(arguments: dict[str, Any]) -> serve.Application:
    """The application for a Serve config file; replicas and what each takes are said there.

    Args:
        arguments: The file's `args`: an `EndpointConfig` as plain data.

    Raises:
        UsageError: An argument is missing or unknown, or there is no such model or file of keys.
        DataError: The bundle is not what its manifest says, or the file is not one of keys.
    """
    config = parse(EndpointConfig, arguments, "args of the Serve application")
    bundle = resolve_model(config.model, config.root)
    load_bundle(bundle)  # what is wrong with it is said here, and not in a replica's log
    if config.keys is not None:
        Keyring(Path(config.keys))
    return deployment().bind(bundle.url, keys=config.keys)


def deployment(**options: Any) -> serve.Deployment:
    """The deployment of replicas, each to be bound to a bundle's URL and the path of its keys.

    Args:
        options: Further options of a Serve deployment.
    """
    made: serve.Deployment = serve.deployment(
        serve.ingress()(_Replica),
        name=DEPLOYMENT,
        # All requests reach the engine, whose bounded queue refuses in the API's own words.
        max_ongoing_requests=2 * MAX_WAITING,
        max_queued_requests=MAX_WAITING,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=10.0,
        logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
        **options,
    )
    return made


class _Replica:
    """One process that holds the model and answers HTTP."""

    def __init__(self, bundle_url: str, keys: str | None = None) -> None:
        self._keys = None if keys is None else Keyring(Path(keys))
        on_gpu = bool(ray.get_gpu_ids())
        bundle = load_bundle(locate(bundle_url))
        self._engine = Engine(
            network_of(bundle),
            info_of(bundle, created=int(time.time())),
            device="cuda" if on_gpu else "cpu",
            # A replica without a GPU has one core, which the next batch needs as much.
            encoder_threads=4 if on_gpu else 1,
        )
        watch_queue(
            lambda: self._engine.waiting,
            self._engine.max_waiting,
            model=bundle.name,
            replica=ray.get_runtime_context().get_actor_id()[:8],
        )

    def __serve_build_asgi_app__(self) -> Any:
        """The application, once the model is loaded (Ray Serve calls this)."""
        return create_app(Shelf([self._engine]), self._keys)
