"""Wait for the result of an announcement, by the status in the bot's document."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libs.core.errors import Permanent, Retryable
from libs.core.store.entities import Entity, EntityStore
from libs.core.store.releases import Rejection, RejectionReason, Release, version_name
from libs.core.store.runs import RunFilter, RunStore
from services.bot_runner.status import BotState

_POLL_SECONDS = 0.1
# The workers' clocks and writes may lag behind a health window that is over here.
_CONFIRMATION_SECONDS = 10.0
_AT_REST = (BotState.DISABLED, BotState.KILLED, BotState.STOPPED)


class BotNotRunning(Permanent):
    """The announced version does not run; the message has the reason, and what runs instead."""


class NotInTime(Retryable):
    """Timed out; the result may still come."""


@dataclass(frozen=True)
class Settled:
    """A settled bot: healthy, or intentionally down.

    Attributes:
        healthy_seconds: how long it ran before it counted as healthy; 0 when down.
    """

    state: str
    detail: str
    worker: str
    container: str
    segment: int
    healthy_seconds: float = 0.0


class HealthWatch:
    """Watches one version of a bot, announced at *updated_at* (`custom.updatedAt`).

    Args:
        window_seconds: time for which it must run without an end.
        start_seconds: time limit until it runs.
    """

    def __init__(
        self,
        entities: EntityStore,
        runs: RunStore,
        bot_id: str,
        updated_at: str,
        *,
        window_seconds: float,
        start_seconds: float,
    ) -> None:
        self._entities = entities
        self._runs = runs
        self._bot_id = bot_id
        self._updated_at = updated_at
        self._window_seconds = window_seconds
        self._start_seconds = start_seconds
        self._running: tuple[str, float] | None = None
        self._waiting_since = 0.0
        self._rejected_since: float | None = None

    async def until_healthy(self) -> Settled:
        """Wait until this version, or a later one, has run for the health window, or is intentionally down.

        Raises:
            BotNotRunning: it was rejected, or ended; the message has its last lines, and names the version that runs.
            NotInTime: it did not start in time.
        """
        self._waiting_since = time.monotonic()
        while True:
            entity = await self._entities.get(self._bot_id)
            if entity is not None and (settled := await self._outcome_of(entity)) is not None:
                return settled
            self._check_time(entity)
            await asyncio.sleep(_POLL_SECONDS)

    async def _outcome_of(self, entity: Entity) -> Settled | None:
        """Return the outcome, if there is one."""
        status = self._status_of(entity)
        state = status.get("state")
        if state in _AT_REST:
            return self._settled(entity, status, 0.0)
        rejection = Rejection.from_document(status.get("rejection"))
        if rejection is not None and rejection.revision == entity.revision:
            await self._rejected(entity, status, rejection)
            return None
        self._rejected_since = None
        # Until the new version is checked and started, the previous one runs or ends.
        if (status.get("running_revision") or entity.revision) != entity.revision:
            self._running = None
            return None
        # A new version starts without failures: a running one with failures has ended in between.
        if state in (BotState.REJECTED, BotState.BACKING_OFF) or (state == BotState.RUNNING and status.get("failures")):
            raise BotNotRunning(await self._why(status))
        if state != BotState.RUNNING:
            self._running = None
            return None
        run_id, now = str(status.get("run_id")), time.monotonic()
        if self._running is None or self._running[0] != run_id:
            self._running = (run_id, now)
        seconds = now - self._running[1]
        confirmed = Release.of(entity.document).previous is None
        return (
            self._settled(entity, status, self._window_seconds)
            if seconds >= self._window_seconds and confirmed
            else None
        )

    def _check_time(self, entity: Entity | None) -> None:
        """Raise NotInTime when the current step takes too long."""
        now = time.monotonic()
        if self._rejected_since is not None:
            return
        if self._running is None and now - self._waiting_since >= self._start_seconds:
            raise NotInTime(self._overdue(entity))
        if self._running is not None and now - self._running[1] >= self._window_seconds + _CONFIRMATION_SECONDS:
            raise NotInTime(f"bot {self._bot_id!r} runs, but no worker reports it as healthy; check `runtime status`")

    def _status_of(self, entity: Entity) -> Mapping[str, Any]:
        """Return the status, if it belongs to the announced version."""
        if str(entity.custom.get("updatedAt", "")) < self._updated_at:
            return {}
        return entity.status if entity.status.get("revision") == entity.revision else {}

    async def _rejected(self, entity: Entity, status: Mapping[str, Any], rejection: Rejection) -> None:
        """Raise once it is known what runs instead, or that nothing does.

        Raises:
            BotNotRunning: it is known.
        """
        now = time.monotonic()
        self._rejected_since = self._rejected_since if self._rejected_since is not None else now
        current = Release.of(entity.document).current
        has_other = current is not None and current.revision != entity.revision
        state = status.get("state")
        known = state in (BotState.RUNNING, BotState.BACKING_OFF, BotState.WAITING)
        if has_other and current is not None and (known or now - self._rejected_since >= self._start_seconds):
            ours, theirs = version_name(entity.custom), current.name
            which = f"version {theirs}" if theirs and theirs != ours else "the previous version"
            unhealthy = rejection.reason is RejectionReason.UNHEALTHY
            outcome = f"{which} was restored" if unhealthy else f"{which} keeps running"
            outcome += f" and is {state}" if state != BotState.RUNNING else ""
            raise BotNotRunning(
                f"the new version of bot {self._bot_id!r} does not run ({rejection.reason}): {rejection.detail}; "
                f"{outcome}{await self._last_lines(entity.revision) if unhealthy else ''}"
            )
        if state == BotState.REJECTED:
            raise BotNotRunning(await self._why(status))

    def _settled(self, entity: Entity, status: Mapping[str, Any], healthy_seconds: float) -> Settled:
        return Settled(
            state=str(status.get("state", "")),
            detail=str(status.get("detail", "")),
            worker=str(status.get("worker", "")),
            container=str(status.get("container", "")),
            segment=entity.segment_id,
            healthy_seconds=healthy_seconds,
        )

    async def _why(self, status: Mapping[str, Any]) -> str:
        revision = status.get("revision")
        state = status.get("state")
        reason = "it ended and was restarted" if state == BotState.RUNNING else status.get("detail") or state
        message = f"bot {self._bot_id!r} does not run: {reason}"
        return message + await self._last_lines(revision if isinstance(revision, int) else None)

    async def _last_lines(self, revision: int | None) -> str:
        """Return the last output of a version's last run, after a heading; "" without output."""
        ended = await self._runs.list(RunFilter(entity_id=self._bot_id, open=False), limit=10)
        run = next((run for run in ended if run.last_lines and run.revision in (revision, None)), None)
        return "; its last lines:\n" + "\n".join(f"    {line}" for line in run.last_lines) if run is not None else ""

    def _overdue(self, entity: Entity | None) -> str:
        name, seconds = self._bot_id, self._start_seconds
        if entity is None or str(entity.custom.get("updatedAt", "")) < self._updated_at:
            return f"no worker has processed the event of bot {name!r} within {seconds:g} s; see `runtime status`"
        state, detail = entity.status.get("state", "not started"), entity.status.get("detail")
        return (
            f"bot {name!r} does not run within {seconds:g} s: it is {state} in segment {entity.segment_id}"
            f"{f' ({detail})' if detail else ''}; `runtime status` shows whether a worker owns that"
        )
