"""The autoscaler as a loop of the leading master."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

from libs.autoscaler.autoscaler import Autoscaler
from libs.autoscaler.decision import ScalingSettings
from libs.autoscaler.errors import FleetUnknown
from libs.autoscaler.fleet import FleetSnapshot, Placed, WorkerLoad
from libs.autoscaler.kubernetes import KubernetesWorkers
from libs.core.master.master import Master
from libs.core.master.role import Loop, MasterSettings
from libs.core.master.status import MasterSnapshot, SegmentStatus
from libs.core.placement import Labels, read
from libs.core.process.process import Process


def autoscaling(_process: Process, master: Master, settings: MasterSettings) -> Sequence[Loop]:
    """Return the loop that scales the worker pods; none outside a cluster (`--mode standalone`)."""
    if settings.coordination.mode == "standalone":
        return []

    async def fleet() -> FleetSnapshot:
        snapshot = master.snapshot()
        if snapshot.surveyed_seconds_ago is None or snapshot.problem:
            raise FleetUnknown(snapshot.problem or "segments have not been read yet")
        return fleet_of(snapshot)

    async def run() -> None:
        await master.surveyed()
        bounds = ScalingSettings(
            settings.autoscaler.min_replicas,
            settings.autoscaler.max_replicas,
            segments_per_worker=settings.coordination.max_segments_per_worker,
            standby=settings.autoscaler.standby_workers,
        )
        async with KubernetesWorkers(
            settings.autoscaler.namespace, settings.autoscaler.deployment_name, os.environ
        ) as workers:
            await Autoscaler(fleet, workers, bounds, lambda: master.leads, notice=master.notice).run()

    return [("autoscaler", run)]


def fleet_of(snapshot: MasterSnapshot) -> FleetSnapshot:
    """Return the fleet as input of the autoscaler."""
    owners = frozenset(
        worker.worker_id
        for worker in snapshot.workers
        if worker.role == "owning" or (worker.cordoned and (worker.held or worker.assigned))
    )
    owners |= {segment.worker_id for segment in snapshot.segments if segment.worker_id is not None}
    held = {segment_id for worker in snapshot.workers for segment_id in worker.held}
    return FleetSnapshot(
        len(snapshot.segments),
        owners,
        {
            worker.worker_id: WorkerLoad(
                worker.host,
                {int(segment_id): demand.need for segment_id, demand in worker.demands.items()},
                frozenset(int(one) for one, demand in worker.demands.items() if demand.lacking is not None),
                worker.room,
            )
            for worker in snapshot.workers
            # A worker whose engine does not answer has no capacity.
            if not worker.engine_lost
        },
        sum(segment.bot_count for segment in snapshot.segments if segment.segment_id not in held),
        sum(worker.cordoned and (worker.drained or not worker.held) for worker in snapshot.workers),
        _placed(snapshot.segments, held),
        {worker.worker_id: read(",".join(worker.labels)) for worker in snapshot.workers},
    )


def _placed(segments: Sequence[SegmentStatus], held: set[int]) -> Mapping[Labels, Placed]:
    by_labels: dict[Labels, list[SegmentStatus]] = defaultdict(list)
    for segment in segments:
        if segment.placement:
            by_labels[read(segment.placement)].append(segment)
    return {
        labels: Placed(len(found), sum(one.bot_count for one in found if one.segment_id not in held))
        for labels, found in by_labels.items()
    }
