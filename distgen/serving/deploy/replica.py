"""What Ray Serve deploys: replicas that each hold the model and answer HTTP.

`distgen serve` starts them itself; a Serve config file, as in KubeRay's RayService, names `build`
as its `import_path`.
"""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig

from distgen.core.config import parse
from distgen.core.heap import give_back_every
from distgen.serving.deploy.reporting import report, report_changes
from distgen.serving.deploy.scaling import DEPLOYMENT, MOST_ONGOING
from distgen.serving.http.app import create_app
from distgen.serving.http.gate.keyring import Keyring
from distgen.serving.http.resets import forget_reset_connections
from distgen.serving.job import EndpointConfig
from distgen.serving.making.engine import MAX_WAITING
from distgen.serving.making.loading import checked
from distgen.serving.making.references import Reference, references
from distgen.serving.making.shelf import Shelf
from distgen.serving.making.workshop.apart import Workshop

_SWITCH_S = 0.0005
_GARBAGE = 20_000
"""Objects after which Python looks for cycles among the newest; a request leaves some dozens."""
_GIVE_BACK_S = 10.0
"""Between two times that freed memory goes back to the kernel, in some milliseconds each."""


def build(arguments: dict[str, Any]) -> serve.Application:
    """The application for a Serve config file; replicas and what each takes are said there.

    Args:
        arguments: The file's `args`: an `EndpointConfig` as plain data.

    Raises:
        UsageError: An argument is missing or unknown, or there is no such model or file of keys.
        DataError: A bundle is not what its manifest says, or the file is not one of keys.
    """
    config = parse(EndpointConfig, arguments, "args of the Serve application")
    # What is wrong with them is said here, and not in a replica's log.
    served = checked(references(config.all_models, config.root), config.memory)
    if config.keys is not None:
        Keyring(Path(config.keys))
    return deployment().bind(served, config.memory, config.keys)


def deployment(**options: Any) -> serve.Deployment:
    """The deployment of replicas, each to be bound to references, a memory limit and keys.

    Args:
        options: Further options of a Serve deployment.
    """
    made: serve.Deployment = serve.deployment(
        serve.ingress()(_Replica),
        name=DEPLOYMENT,
        # Requests reach the engine, whose bounded queue refuses in the API's own words; what is
        # more than can be read and answered at once HAProxy refuses, and without it Ray does.
        max_ongoing_requests=MOST_ONGOING,
        max_queued_requests=MAX_WAITING,
        backpressure_config=BackpressureConfig(
            status_code=HTTPStatus.TOO_MANY_REQUESTS, retry_after_s=1
        ),
        graceful_shutdown_wait_loop_s=0.1,
        # What was taken in is answered first, within what Kubernetes gives a pod by default.
        graceful_shutdown_timeout_s=25.0,
        logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
        **options,
    )
    return made


class _Replica:
    """One process that holds the models and answers HTTP."""

    def __init__(
        self,
        references: tuple[Reference, ...],
        memory_bytes: int | None = None,
        keys: str | None = None,
    ) -> None:
        # The thread that hears of drawn batches waits for the event loop to let go of the
        # interpreter; at Python's own 5 ms the network would have nothing to do meanwhile.
        sys.setswitchinterval(_SWITCH_S)
        gc.set_threshold(_GARBAGE)
        give_back_every(_GIVE_BACK_S)
        forget_reset_connections()
        replica = ray.get_runtime_context().get_actor_id()[:8]
        self._terms = report(replica)
        self._keys = None if keys is None else Keyring(Path(keys))
        on_gpu = bool(ray.get_gpu_ids())
        workshop = Workshop(
            "cuda" if on_gpu else "cpu",
            # A replica without a GPU has one core, which the next batch needs as much.
            encoder_threads=4 if on_gpu else 1,
            # Ray Serve starts another replica, and sends requests to the others meanwhile.
            lost=partial(os._exit, 1),
        )
        self._shelf = Shelf.of(references, workshop.load, memory_bytes)
        report_changes(self._shelf, replica)

    def __serve_build_asgi_app__(self) -> Any:
        """The application, once the models are loaded (Ray Serve calls this)."""
        return create_app(self._shelf, self._terms, self._keys)
