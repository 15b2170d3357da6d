"""Find runs that may be alive: a record without an end proves nothing when its worker and host are gone."""

from collections.abc import Collection

from libs.core.store.leases import LeaseStore
from libs.core.store.runs import RunFilter, RunStore


class LiveRuns:
    """Open records, compared with the leases under which their containers live."""

    def __init__(self, runs: RunStore, leases: LeaseStore) -> None:
        self._runs = runs
        self._leases = leases

    async def of(self, entity_ids: Collection[str], *, outside: int | None = None) -> dict[str, str]:
        """Return those of these entities that may have a live container, with its worker.

        Args:
            outside: only in other segments than this one. An entity that is deleted and recreated may get
                another segment while its old owner still stops it, which takes up to the grace period of a stop.

        Raises:
            StoreUnavailable: unknown.
        """
        wanted = RunFilter(entity_ids=entity_ids, open=True, outside_segment_id=outside)
        found = await self._runs.list(wanted, limit=0)
        if not found:
            return {}
        leases = {lease.segment_id: lease for lease in await self._leases.live()}
        return {run.entity_id: run.worker_id for run in found if run.may_live_under(leases.get(run.segment_id))}
