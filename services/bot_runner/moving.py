"""Move a bot to another segment, as the leading master ordered: stop it, store all of it, and change its segment.

In this order, so that the next owner finds nothing unfinished: the run's end is recorded, its state is saved with the
removal of its container, its output is uploaded, since a day's log has one writer; only then its segment changes. If
one of these is not possible, the bot stays, and starts again here at once.
"""

from libs.core.errors import Retryable
from libs.core.events.wakeups import WakeUps
from libs.core.observability.log import get_logger
from libs.core.store.entities import Entity, EntityStore
from libs.core.store.relocations import Relocation
from libs.core.worker.handler import OwnedSegment
from services.bot_runner.records import BotRecords

log = get_logger(__name__)

_BEFORE_STOP_SECONDS = 0.5
"""For the upload of output while the bot runs; a kill waits for it."""
_AFTER_STOP_SECONDS = 2.0


class BotMover:
    """Carries out orders to move bots of one owned segment."""

    def __init__(self, owned: OwnedSegment, *, entities: EntityStore, records: BotRecords, wake_ups: WakeUps) -> None:
        self._owned = owned
        self._entities = entities
        self._records = records
        self._wake_ups = wake_ups

    async def may_stop(self, bot: Entity | None, order: Relocation) -> bool:
        """Whether the running *bot* could be moved now, so that it may be stopped; if not, it stays.

        Raises:
            StoreUnavailable: unknown.
        """
        if bot is None:
            return False
        if not await self._entities.relocations.is_possible(order, bot.config):
            await self._stays(bot, order, "its new segment has no room or no owner")
        elif not await self._records.output_is_stored(bot.id, _BEFORE_STOP_SECONDS):
            await self._stays(bot, order, "its output cannot be uploaded")
        else:
            return self._owned.proven()
        return False

    async def move(self, bot: Entity | None, order: Relocation) -> None:
        """Move *bot*, which has no container; if that is not possible, it stays. May be repeated.

        Raises:
            StoreUnavailable: it may have moved.
        """
        if bot is None:
            return
        try:
            reason = await self._moved(bot, order)
        except Retryable:
            raise
        except Exception:
            await self._stays(bot, order, "an internal error")
            raise
        if reason:
            await self._stays(bot, order, reason)

    async def _moved(self, bot: Entity, order: Relocation) -> str:
        """Move *bot*; return why that is not possible, "" when it has moved."""
        if not await self._records.are_closed(bot.id):
            return "the end of a run is not recorded"
        if not await self._records.output_is_stored(bot.id, _AFTER_STOP_SECONDS):
            return "its output cannot be uploaded"
        if not self._owned.proven():
            return ""
        if not await self._entities.relocations.carry_out(bot.id, bot.config, order):
            return "its new segment has no room or no owner, or the bot was changed"
        log.info("bot moved", reason=order.reason, segment=order.origin, to=order.target)
        await self._wake_ups.entity_moved(order.target)
        return ""

    async def _stays(self, bot: Entity, order: Relocation, reason: str) -> None:
        log.warning("bot does not move", reason=reason, segment=order.origin, to=order.target)
        await self._entities.relocations.refuse(bot.id, order)
