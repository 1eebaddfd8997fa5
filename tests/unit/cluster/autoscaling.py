"""Which nodes Ray's own autoscaler would add, asked without a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest


def nodes_for(
    config: Mapping[str, Any],
    workers: Sequence[Mapping[str, float]],
    unavailable: Sequence[str] = (),
) -> Counter[str]:
    """Nodes by their type that an empty cluster gets for a group of workers; empty where it cannot.

    Args:
        config: What `ray up` or KubeRay gives the autoscaler.
        workers: What each worker needs.
        unavailable: Types of which the provider had none when last asked.
    """
    prepared = AutoscalingConfig(dict(config), skip_content_hash=True)
    gang = GangResourceRequest(requests=[ResourceRequestUtil.make(dict(each)) for each in workers])
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=prepared.get_node_type_configs(),
            max_num_nodes=prepared.get_max_num_worker_nodes(),
            gang_resource_requests=[gang],
            cloud_resource_availabilities=dict.fromkeys(unavailable, 0.1),
            recoverable_resource_availabilities=dict.fromkeys(unavailable, 0.1),
        )
    )
    return Counter({launch.instance_type: launch.count for launch in reply.to_launch})
