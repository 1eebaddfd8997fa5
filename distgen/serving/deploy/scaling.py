"""What Ray Serve is told of an endpoint, by whoever starts it and in Serve config files alike."""

from __future__ import annotations

from typing import Any

from distgen.serving.job import Replicas
from distgen.serving.making.engine import MAX_WAITING

APPLICATION = "distgen"
"""The application's name."""
DEPLOYMENT = "images"
"""The deployment's name, under which a Serve config file gives it replicas and GPUs."""

MOST_ONGOING = MAX_WAITING + 256
"""Requests that one replica reads, makes and answers at once."""


def scaling(replicas: Replicas) -> dict[str, Any]:
    """How many replicas there are, in the words of a Serve deployment."""
    if isinstance(replicas, int):
        return {"num_replicas": replicas}
    fewest, most = replicas
    return {
        "autoscaling_config": {
            "min_replicas": fewest,
            "max_replicas": most,
            # Half of them are drawn while the others are read and answered: more would only wait.
            "target_ongoing_requests": 32,
            # A replica takes seconds to load its models; load that comes back would miss it.
            "look_back_period_s": 15,  # more than the 10 s between what replicas tell
            "upscale_delay_s": 10,
            "downscale_delay_s": 300,
        }
    }
