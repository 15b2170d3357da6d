"""Move an idle schedule to another segment, as the leading master ordered."""

from libs.core.events.wakeups import WakeUps
from libs.core.observability.log import get_logger
from libs.core.store.relocations import Relocation
from libs.core.worker.handler import OwnedSegment
from services.bot_scheduler.records import RunRecords
from services.bot_scheduler.schedule_claims import ScheduleClaims
from services.bot_scheduler.state import ScheduleState

log = get_logger(__name__)

_UPLOAD_SECONDS = 2.0


class ScheduleMover:
    """Carries out orders to move schedules of one owned segment."""

    def __init__(self, owned: OwnedSegment, claims: ScheduleClaims, records: RunRecords, wake_ups: WakeUps) -> None:
        self._owned = owned
        self._claims = claims
        self._records = records
        self._wake_ups = wake_ups

    async def moved(self, state: ScheduleState, order: Relocation) -> bool:
        """Move a schedule of which nothing is active, and no firing is claimed meanwhile. Return whether it moved.

        If that is not possible, it stays here.

        Raises:
            StoreUnavailable: it may have moved.
        """
        reason = ""
        if not await self._records.are_closed(state.id):
            reason = "the end of a run is not recorded"
        elif not await self._records.output_is_stored(state.id, _UPLOAD_SECONDS):
            reason = "its output cannot be uploaded"
        elif not self._owned.proven():
            return False
        elif not await self._claims.carry_out(state, order):
            reason = "its new segment has no room or no owner, or the schedule was changed"
        if reason:
            log.warning("schedule does not move", schedule=state.id, reason=reason, segment=order.origin)
            await self._claims.refuse(state, order)
            return False
        log.info("schedule moved", schedule=state.id, reason=order.reason, segment=order.origin, to=order.target)
        await self._wake_ups.entity_moved(order.target)
        return True
