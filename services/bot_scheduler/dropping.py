"""Record firings without a run: in the history, and for the webhook of missed ones.

The claim that drops a firing leaves it in the document. It is taken out when it is recorded, so that the next owner
records what a worker that died in between has not. A record that is written twice is the same one.
"""

import asyncio
from collections.abc import MutableMapping
from functools import partial

from libs.core.process.isolation import isolated
from services.bot_scheduler.attempt import ScheduleKit
from services.bot_scheduler.ending import result_of, utc
from services.bot_scheduler.state import DROPPED, DroppedFiring, ScheduleState


class DroppedFirings:
    """Those of one owned segment, whose schedules are in *states*."""

    def __init__(self, kit: ScheduleKit, states: MutableMapping[str, ScheduleState]) -> None:
        self._kit = kit
        self._states = states
        self._recording: set[str] = set()

    def record(self, schedule_id: str, tasks: asyncio.TaskGroup) -> None:
        """Record in *tasks* what the history lacks of this schedule; nothing if that is in progress."""
        if self._states[schedule_id].dropped and schedule_id not in self._recording:
            self._recording.add(schedule_id)
            tasks.create_task(self._record_all(schedule_id), name="record dropped firings")

    async def _record_all(self, schedule_id: str) -> None:
        try:
            with isolated("record dropped firing"):
                while (state := self._states.get(schedule_id)) is not None and state.dropped:
                    for dropped in state.dropped:
                        await self._kit.written(partial(self._record_one, state, dropped))
                    if not await self._kit.written(partial(self._kit.claims.drop_recorded, state)):
                        # More were dropped meanwhile; what is in memory may be outdated until the next reading.
                        return
                    if (now := self._states.get(schedule_id)) is not None and now.dropped == state.dropped:
                        self._states[schedule_id] = now.after_write({DROPPED: None})
        finally:
            self._recording.discard(schedule_id)

    async def _record_one(self, state: ScheduleState, dropped: DroppedFiring) -> None:
        ending = result_of(dropped.reason, utc(dropped.dropped_at), dropped.message)
        await self._kit.records.end(state, dropped.firing, ending)
