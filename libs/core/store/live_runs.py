"""Which runs may be alive under another segment's lease: of entities that were deleted there and created again."""

from collections.abc import Collection

from libs.core.store.leases import LeaseStore
from libs.core.store.runs import RunFilter, RunStore


class LiveRuns:
    """Open records, held against the leases under which their containers live."""

    def __init__(self, runs: RunStore, leases: LeaseStore) -> None:
        self._runs = runs
        self._leases = leases

    async def elsewhere(self, entity_ids: Collection[str], segment_id: int) -> dict[str, str]:
        """Those of these entities that may have a container in another segment, with the worker that has it.

        Its old owner stops it, which takes it up to the grace of a stop.

        Raises:
            StoreUnavailable: nothing is known.
        """
        open_runs = await self._runs.list(RunFilter(entity_ids=entity_ids, open=True), limit=0)
        others = [run for run in open_runs if run.segment_id != segment_id]
        if not others:
            return {}
        leases = {lease.segment_id: lease for lease in await self._leases.live()}
        return {run.entity_id: run.worker_id for run in others if run.may_live_under(leases.get(run.segment_id))}
