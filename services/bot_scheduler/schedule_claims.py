"""A worker's writes into schedules' documents: claims before a run, and the result after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from libs.core.room import Need
from libs.core.store.entities import Change, Entity, EntityStore
from libs.core.store.relocations import Relocation
from libs.docker_runner.containers.run_records import Recorder
from libs.docker_runner.executable import new_run_id
from libs.docker_runner.runs.attempt import AttemptResult
from services.bot_scheduler.decide import Claim
from services.bot_scheduler.ending import REJECTED, utc
from services.bot_scheduler.records import last_run
from services.bot_scheduler.state import (
    DROPPED,
    FIRING,
    FIRING_RUN,
    LAST_RUN,
    OWNER_EPOCH,
    OWNER_SEGMENT,
    QUEUED,
    SCHEDULER,
    TRIGGER,
    DroppedFiring,
    Firing,
    ScheduleState,
)

# Of those that the history lacks, the latest: it can be away for long.
_MOST_DROPPED = 100


@dataclass(frozen=True)
class Entry:
    """A claim to be written, with the firing that it starts or drops, if any."""

    state: ScheduleState
    claim: Claim
    firing: Firing | None = None
    dropped: DroppedFiring | None = None

    @property
    def changes(self) -> dict[str, object]:
        """The fields to write."""
        changes = dict(self.claim.changes)
        if self.firing is not None:
            changes[FIRING] = self.firing.to_document()
        if self.dropped is not None:
            dropped = [*self.state.dropped, self.dropped][-_MOST_DROPPED:]
            changes[DROPPED] = [one.to_document() for one in dropped]
        return changes

    def to_change(self) -> Change:
        """The write, which happens only if the document is unchanged."""
        expected = self.state.expected
        if self.firing is not None:
            expected[FIRING] = None
        if QUEUED in self.claim.changes:
            expected[QUEUED] = list(self.state.queued) or None
        if TRIGGER in self.claim.changes and self.state.trigger is not None:
            expected[f"{TRIGGER}.id"] = self.state.trigger.id
        return Change(self.state.id, expected, self.changes)


class ScheduleClaims:
    """Writes for one owned segment."""

    def __init__(self, recorder: Recorder, *, epoch: int, entities: EntityStore) -> None:
        self._recorder = recorder
        self._epoch = epoch
        self._entities = entities

    def entry(self, state: ScheduleState, claim: Claim, now: float = 0.0, *, detail: str = "") -> Entry:
        """Return the writes for *claim*, with a new run id.

        Args:
            now: Unix seconds.
            detail: why a firing is dropped, more precisely than its reason.
        """
        if claim.drop is not None:
            at, reason = claim.drop
            message = f"the firing of {utc(at).isoformat()} was not run" + (f": {detail}" if detail else "")
            return Entry(state, claim, dropped=DroppedFiring(at, new_run_id(), str(reason), now, message))
        if claim.fire is None:
            return Entry(state, claim)
        return Entry(state, claim, firing=self.with_owner(Firing(claim.fire, new_run_id(), claim.cause)))

    def with_owner(self, firing: Firing) -> Firing:
        """Return *firing* with this worker as its owner."""
        fields = {**firing.__dict__, "host": self._recorder.host, "worker": self._recorder.worker, "epoch": self._epoch}
        return Firing(**fields)

    async def placement(self, segment_id: int) -> str:
        """Return the labels that the worker of the segment must have, as text."""
        return await self._entities.partitions.placement_of(segment_id)

    async def move(self, state: ScheduleState) -> int | None:
        """Move a schedule that runs nowhere to a segment of its placement; see :meth:`EntityStore.move`."""
        return await self._entities.move(state.entity)

    async def carry_out(self, state: ScheduleState, order: Relocation) -> bool:
        """Move a schedule without an active firing as ordered; see :meth:`RelocationStore.carry_out`."""
        entity = state.entity
        return await self._entities.relocations.carry_out(entity.id, entity.config, order, {FIRING: None})

    async def refuse(self, state: ScheduleState, order: Relocation) -> None:
        """End an order to move a schedule, which stays."""
        await self._entities.relocations.refuse(state.id, order)

    async def fence(self, segment_id: int) -> None:
        """Fence earlier owners: their claims can no longer be written, whenever they were sent. May be repeated.

        A claim that arrives after the takeover would take the firing from this owner, and its run would never start.
        """
        await self._entities.mark_segment(segment_id, SCHEDULER, {OWNER_SEGMENT: segment_id, OWNER_EPOCH: self._epoch})

    async def write(self, entries: Sequence[Entry]) -> bool:
        """Write them in one request. Return False when some documents had changed, whichever they are.

        Raises:
            StoreUnavailable: unknown for each of them.
        """
        changes = [self._fenced(entry.state, entry.to_change()) for entry in entries]
        return await self._entities.compare_and_set_many(changes) == len(changes)

    async def segment(self, segment_id: int, after_id: str, limit: int) -> list[Entity]:
        """Return a page of the segment's schedules."""
        return await self._entities.page(after_id=after_id, limit=limit, segment_id=segment_id)

    async def read(self, ids: Sequence[str]) -> dict[str, Entity]:
        """Return those of these schedules that exist, by id."""
        return await self._entities.by_ids(ids)

    async def take_over(self, schedule_id: str, firing: Firing) -> bool:
        """Take over a firing that an earlier owner claimed. Return False when it no longer exists."""
        changes = {FIRING: self.with_owner(firing).to_document()}
        return await self._entities.compare_and_set(schedule_id, {FIRING_RUN: firing.run_id}, changes)

    async def waits(self, schedule_id: str, firing: Firing, detail: str, need: Need | None) -> bool:
        """Record that it waits, without a start request. Return False when the firing no longer exists.

        Args:
            need: the missing room; None when it waits for something else.
        """
        status = {"state": "waiting", "since": utc(firing.begins_at), "detail": detail, **self._worker}
        status["lacking"] = need.to_document() if need is not None else None
        return await self._entities.compare_and_set(
            schedule_id, {FIRING_RUN: firing.run_id}, {f"{FIRING}.waiting": True, **_each("status", status)}
        )

    async def has(self, schedule_id: str, firing: Firing) -> bool:
        """Return whether the firing still exists."""
        entity = await self._entities.get(schedule_id)
        found = ScheduleState.of(entity).firing if entity is not None else None
        return found is not None and found.run_id == firing.run_id

    async def begins(self, schedule_id: str, firing: Firing) -> bool:
        """Record that its start is about to be requested after a wait. Return False when the firing is gone."""
        return await self._entities.compare_and_set(
            schedule_id, {FIRING_RUN: firing.run_id}, {f"{FIRING}.waiting": False, "status.lacking": None}
        )

    async def started(self, schedule_id: str, firing: Firing) -> bool:
        """Record that its container was started. Return False when the firing no longer exists."""
        status = {"state": "running", "since": utc(firing.begins_at), "run_id": firing.run_id, **self._worker}
        return await self._entities.compare_and_set(
            schedule_id,
            {FIRING_RUN: firing.run_id},
            {f"{FIRING}.started": True, **_each("status", status), "status.detail": None, "status.lacking": None},
        )

    async def close(self, schedule_id: str, firing: Firing, ending: AttemptResult, following: Firing | None) -> bool:
        """Record the end of the attempt; *following* is the next one. Return False when the firing no longer exists."""
        state = "retrying" if following is not None else REJECTED if ending.reason == REJECTED else "waiting"
        status: dict[str, Any] = {"state": state, "since": ending.at, "detail": ending.message, "run_id": None}
        status |= self._worker | {LAST_RUN: last_run(firing, ending), "lacking": None}
        changes = {FIRING: following.to_document() if following else None, **_each("status", status)}
        return await self._entities.compare_and_set(schedule_id, {FIRING_RUN: firing.run_id}, changes)

    async def drop_recorded(self, state: ScheduleState) -> bool:
        """Take the dropped firings of *state*, which the history has, out of the document.

        Returns:
            Whether they are gone; False when there are others meanwhile.
        """
        expected = {DROPPED: [one.to_document() for one in state.dropped]}
        return await self._entities.compare_and_set(state.id, expected, {DROPPED: None})

    async def reject(self, state: ScheduleState, now: float) -> None:
        """Write the error in its config into the document, unless it is there already."""
        status = state.entity.status
        if status.get("state") != REJECTED or status.get("detail") != state.problem:
            changes = _each("status", {"state": REJECTED, "since": utc(now), "detail": state.problem})
            await self._entities.compare_and_set(state.id, state.entity.as_read, changes)

    def _fenced(self, state: ScheduleState, change: Change) -> Change:
        """Return *change* with a condition that a later owner of the segment invalidates."""
        # Epochs of different segments are not comparable.
        segment = {f"{SCHEDULER}.{OWNER_SEGMENT}": state.entity.segment_id}
        later = {**segment, f"{SCHEDULER}.{OWNER_EPOCH}": {"$gt": self._epoch}}
        return replace(change, expected={**change.expected, "$nor": [later]})

    @property
    def _worker(self) -> dict[str, Any]:
        return {"worker": self._recorder.worker}


def _each(field: str, values: Mapping[str, object]) -> dict[str, object]:
    """Return the values as separate fields below *field*, so that the others stay."""
    return {f"{field}.{name}": value for name, value in values.items()}
