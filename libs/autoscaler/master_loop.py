"""The autoscaler as a loop of the leading master."""

import os
from collections.abc import Sequence

from libs.autoscaler.autoscaler import Autoscaler
from libs.autoscaler.decision import FleetSnapshot, ScalingSettings
from libs.autoscaler.errors import FleetUnknown
from libs.autoscaler.kubernetes import KubernetesWorkers
from libs.core.master.master import Master
from libs.core.master.role import Loop, MasterSettings


def autoscaling(master: Master, settings: MasterSettings) -> Sequence[Loop]:
    """The loop that keeps the number of worker pods right; none outside a cluster (`--mode standalone`)."""
    if settings.coordination.mode == "standalone":
        return []

    async def fleet() -> FleetSnapshot:
        snapshot = master.snapshot()
        if snapshot.surveyed_seconds_ago is None or snapshot.problem:
            raise FleetUnknown(snapshot.problem or "segments have not been read yet")
        owners = frozenset(worker.worker_id for worker in snapshot.workers if worker.role == "owning")
        owners |= {segment.worker_id for segment in snapshot.segments if segment.worker_id is not None}
        return FleetSnapshot(len(snapshot.segments), owners)

    async def run() -> None:
        bounds = ScalingSettings(settings.autoscaler.min_replicas, settings.autoscaler.max_replicas)
        async with KubernetesWorkers(
            settings.autoscaler.namespace, settings.autoscaler.deployment_name, os.environ
        ) as workers:
            await Autoscaler(fleet, workers, bounds, lambda: master.leads).run()

    return [("autoscaler", run)]
