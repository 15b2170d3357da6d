"""`runtime schedule trigger | pause | resume | rm`: control one schedule."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from libs.core.events.wakeups import WakeUps
from libs.core.process.service import BOT_SCHEDULER
from libs.core.store.entities import Entity, EntityStore
from services.bot_scheduler.state import PAUSED, TRIGGER, ScheduleState
from tools.bots.announce import Announcer
from tools.bots.removal import Leftover
from tools.cli import interrupts
from tools.cli.bot_waiting import WAIT_SECONDS, show_removed, until_gone, wait_option
from tools.cli.connections import Connections, connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.local_time import local
from tools.cli.local_user import user_of_this_machine
from tools.cli.output import output_option, show

_POLL_SECONDS = 0.05

id_argument = click.argument("schedule_id", metavar="ID")


@click.command()
@id_argument
@wait_option
@output_option
def trigger(schedule_id: str, no_wait: bool, output: str) -> None:
    """Run a schedule once now, even when it is paused. Its next time does not change. An active run ends first."""
    interrupts.run(_trigger(schedule_id, not no_wait))
    show(output, {"id": schedule_id, "triggered": True}, lambda: click.echo(f"{schedule_id} is triggered."))


@click.command()
@id_argument
@output_option
def pause(schedule_id: str, output: str) -> None:
    """Suspend a schedule, regardless of events, until `resume`. An active run is not stopped."""
    by = {"since": datetime.now(UTC), "by": user_of_this_machine()}
    interrupts.run(_set(schedule_id, {PAUSED: by}))
    show(output, {"id": schedule_id, "paused": True}, lambda: click.echo(f"{schedule_id} is paused."))


@click.command()
@id_argument
@output_option
def resume(schedule_id: str, output: str) -> None:
    """Resume a paused schedule. Firings that were due meanwhile are skipped."""
    next_at = interrupts.run(_set(schedule_id, {PAUSED: None})).next_at
    data = {"id": schedule_id, "paused": False, "next_run": next_at}
    show(output, data, lambda: click.echo(f"{schedule_id} is resumed; next at {local(next_at) or 'a later time'}"))


@click.command()
@id_argument
@wait_option
@output_option
def rm(schedule_id: str, no_wait: bool, output: str) -> None:
    """Remove a schedule and stop its run."""
    show_removed(schedule_id, interrupts.run(_rm(schedule_id, not no_wait)), output)


async def _trigger(schedule_id: str, wait: bool) -> None:
    async with connected() as servers:
        entities = await servers.entities(BOT_SCHEDULER)
        wish = {"id": uuid.uuid4().hex, "requested_at": time.time()}
        entity = await _change(servers, entities, schedule_id, {TRIGGER: wish})
        if entity.held is not None:
            raise Failure(f"{schedule_id} is killed ({entity.held.target}); it can run when the kill is undone")
        if wait:
            await _until_taken(entities, schedule_id, wish["id"])


async def _until_taken(entities: EntityStore, schedule_id: str, wish: object) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        entity = await entities.get(schedule_id)
        waiting = ScheduleState.of(entity).trigger if entity is not None else None
        if waiting is None or waiting.id != wish:
            return
        if time.monotonic() > deadline:
            raise Failure(
                f"{schedule_id} has not started within {WAIT_SECONDS:g} s; it starts when the active run has ended, "
                "or when a worker owns it (`runtime status`)",
                ExitCode.TIMEOUT,
            )
        await asyncio.sleep(_POLL_SECONDS)


async def _set(schedule_id: str, changes: dict[str, Any]) -> ScheduleState:
    async with connected() as servers:
        entities = await servers.entities(BOT_SCHEDULER)
        return ScheduleState.of(await _change(servers, entities, schedule_id, changes))


async def _change(servers: Connections, entities: EntityStore, schedule_id: str, changes: dict[str, Any]) -> Entity:
    """Write fields that no event carries, and wake the schedule's owner."""
    if not await entities.compare_and_set(schedule_id, {}, changes):
        raise _unknown(schedule_id)
    entity = await entities.get(schedule_id)
    if entity is None:
        raise _unknown(schedule_id)
    await WakeUps(await servers.nats_if_up(), BOT_SCHEDULER.name).segments_changed([entity.segment_id])
    return entity


async def _rm(schedule_id: str, wait: bool) -> Sequence[Leftover]:
    async with connected() as servers:
        entities = await servers.entities(BOT_SCHEDULER)
        known = await entities.get(schedule_id)
        if known is None:
            raise _unknown(schedule_id)
        if servers.has_nats:
            await Announcer(await servers.jetstream(), BOT_SCHEDULER).deleted(schedule_id, known.config)
        else:
            await entities.delete(schedule_id)
        return await until_gone(servers, BOT_SCHEDULER, schedule_id) if wait else []


def _unknown(schedule_id: str) -> Failure:
    return Failure(
        f"there is no schedule {schedule_id!r}; `runtime schedule ls` lists all schedules", ExitCode.NOT_FOUND
    )
