"""The record of a run without a recorded end, for tests."""

from datetime import UTC, datetime

from libs.core.leases.lease import Holder
from libs.core.run_record import RunRecord


def open_run(
    entity_id: str, segment_id: int, epoch: int, holder: Holder, *, started_at: datetime | None = None
) -> RunRecord:
    """Return a run under the lease that *holder* had with that *epoch*; named after its entity."""
    return RunRecord(
        run_id=f"run of {entity_id}",
        entity_id=entity_id,
        segment_id=segment_id,
        worker_id=holder.worker_id,
        host=holder.host,
        epoch=epoch,
        started_at=started_at or datetime.now(UTC),
    )
