"""An endpoint as a Serve config file, for `serve deploy` and for KubeRay's RayService."""

from __future__ import annotations

from typing import Any

from distgen.serving.deploy.scaling import APPLICATION, DEPLOYMENT, scaling
from distgen.serving.http.gate.needed import require_keys
from distgen.serving.job import ServeJob


def serve_config(job: ServeJob) -> dict[str, Any]:
    """The config file's content.

    Serve's own proxy listens on every node, since what starts HAProxy is the environment of the
    cluster's nodes and not a config file.

    Raises:
        UsageError: Others than this machine would reach the endpoint, and there is no key.
        DataError: The file of keys is none.
    """
    keys = require_keys(job.host, job.keys)
    told = {"models": [*job.all_models], "root": job.root, "memory": job.memory, "keys": keys}
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": job.host, "port": job.port},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "distgen.serving.deploy.replica:build",
                "args": {key: value for key, value in told.items() if value is not None},
                "deployments": [
                    {
                        "name": DEPLOYMENT,
                        **scaling(job.replicas),
                        "ray_actor_options": {"num_cpus": 1, "num_gpus": job.gpus_per_replica},
                    }
                ],
            }
        ],
    }
