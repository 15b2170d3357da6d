"""Waiting until what was announced has come about, by what the workers write on the bot's document."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libs.core.errors import Permanent, Retryable
from libs.core.store.entities import Entity, EntityStore
from libs.core.store.runs import RunFilter, RunStore
from services.bot_runner.status import BotState

_POLL_SECONDS = 0.1
# A bot that fails at its first line is seen running for an instant.
_STEADY_SECONDS = 1.0
_AT_REST = (BotState.DISABLED, BotState.KILLED, BotState.STOPPED)


class BotNotRunning(Permanent):
    """The bot was deployed, and does not run; the message says why."""


class NotInTime(Retryable):
    """What was waited for did not come about in time; it may still."""


@dataclass(frozen=True)
class Settled:
    """A bot that is as it should be: running, or at rest because somebody wants it so."""

    state: str
    detail: str
    worker: str
    container: str
    segment: int


async def until_settled(entities: EntityStore, runs: RunStore, bot_id: str, updated_at: str, seconds: float) -> Settled:
    """Wait until the version of *updated_at*, or a later one, runs steadily.

    Raises:
        BotNotRunning: it was rejected or keeps failing; the message has its last lines.
        NotInTime: nothing of that within *seconds*.
    """
    deadline = time.monotonic() + seconds
    running_since: tuple[str, float] | None = None
    entity: Entity | None = None
    while time.monotonic() < deadline:
        entity = await entities.get(bot_id)
        status = _status_of(entity, updated_at)
        state = status.get("state")
        if entity is not None and state in _AT_REST:
            return _settled(entity, status)
        if state in (BotState.REJECTED, BotState.BACKING_OFF):
            raise BotNotRunning(await _why(runs, bot_id, status))
        if entity is not None and state == BotState.RUNNING:
            run = str(status.get("run_id"))
            if running_since is None or running_since[0] != run:
                running_since = (run, time.monotonic())
            elif time.monotonic() - running_since[1] >= _STEADY_SECONDS:
                return _settled(entity, status)
        await asyncio.sleep(_POLL_SECONDS)
    raise NotInTime(_overdue(bot_id, entity, seconds))


def _status_of(entity: Entity | None, updated_at: str) -> Mapping[str, Any]:
    """The status, if it speaks of what was announced."""
    if entity is None or str(entity.custom.get("updatedAt", "")) < updated_at:
        return {}
    return entity.status if entity.status.get("revision") == entity.revision else {}


def _settled(entity: Entity, status: Mapping[str, Any]) -> Settled:
    return Settled(
        state=str(status.get("state", "")),
        detail=str(status.get("detail", "")),
        worker=str(status.get("worker", "")),
        container=str(status.get("container", "")),
        segment=entity.segment_id,
    )


async def _why(runs: RunStore, bot_id: str, status: Mapping[str, Any]) -> str:
    message = f"bot {bot_id!r} does not run: {status.get('detail') or status.get('state')}"
    ended = [run for run in await runs.list(RunFilter(entity_id=bot_id), limit=3) if run.last_lines]
    if ended:
        message += "; its last lines:\n" + "\n".join(f"    {line}" for line in ended[0].last_lines)
    return message


def _overdue(bot_id: str, entity: Entity | None, seconds: float) -> str:
    if entity is None:
        return f"no worker has taken the event of bot {bot_id!r} within {seconds:g} s; do workers run? `runtime status`"
    state = entity.status.get("state", "not started")
    return (
        f"bot {bot_id!r} does not run within {seconds:g} s: it is {state} in segment {entity.segment_id}; "
        f"`runtime status` shows whether a worker owns that"
    )
