"""`runtime schedule deploy`: from a folder to a schedule."""

import asyncio
import time
from itertools import islice
from pathlib import Path
from typing import Any

import click

from libs.core.service import BOT_SCHEDULER
from libs.core.store.entities import Entity, EntityStore
from services.bot_scheduler.cron import upcoming
from services.bot_scheduler.explain import explain
from services.bot_scheduler.policy import read_definition
from services.bot_scheduler.state import ScheduleState
from services.bot_scheduler.upkeep import derive_next
from tools.bots.deploying import announce, upload
from tools.bots.folder import read_folder
from tools.bots.package import pack
from tools.cli import interrupts
from tools.cli.bot_waiting import WAIT_SECONDS, wait_option
from tools.cli.connections import connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.folder_options import config_of, config_option, directory_argument, entrypoint_option, runtime_option
from tools.cli.local_time import local
from tools.cli.output import output_option, show

_POLL_SECONDS = 0.05


@click.command()
@directory_argument
@click.option("--schedule", "expression", help="When it runs, a cron expression.  [config.schedule in bot.json]")
@click.option("--timezone", help="The zone of its times, such as Europe/Berlin.  [config.timezone, else UTC]")
@click.option("--id", "schedule_id", help="The schedule's id.  [the name in bot.json, else the folder's name]")
@config_option
@runtime_option
@entrypoint_option
@wait_option
@output_option
def deploy(
    directory: Path,
    expression: str | None,
    timezone: str | None,
    schedule_id: str | None,
    config: str | None,
    runtime: str | None,
    entrypoint: str | None,
    no_wait: bool,
    output: str,
) -> None:
    """Upload the bot in DIRECTORY and run it on a schedule, or bring it to this version if it exists.

    Exit code 2 when the expression cannot be used, 5 when no worker has taken it after a minute.
    """
    given = {"schedule": expression, "timezone": timezone}
    over = {**config_of(config), **{name: value for name, value in given.items() if value is not None}}
    data = interrupts.run(_deploy(directory, schedule_id, over, runtime, entrypoint, not no_wait))
    show(output, data, lambda: click.echo(_told(data)))


async def _deploy(
    directory: Path,
    schedule_id: str | None,
    over: dict[str, Any],
    runtime: str | None,
    entrypoint: str | None,
    wait: bool,
) -> dict[str, Any]:
    folder = read_folder(directory, runtime, entrypoint)
    config = {**folder.config, **over}
    if config.get("schedule") is None:
        raise click.UsageError(
            f'{directory} does not say when it runs: give --schedule "0 9 * * MON-FRI", or write config.schedule in '
            "its bot.json"
        )
    # Told here and now, and not by a dead letter later.
    definition = read_definition(config)
    package = pack(directory)
    async with connected() as servers:
        entities = await servers.entities(BOT_SCHEDULER, derive_next())
        uploaded = await upload(servers, folder, schedule_id or folder.name, package)
        announced = await announce(servers, BOT_SCHEDULER, entities, uploaded, config)
        times = list(islice(upcoming(definition.schedule, time.time()), 3))
        data = {**announced.facts(), "meaning": explain(definition.schedule)}
        if wait:
            entity = await _until_taken(entities, uploaded.entity_id, announced.updated_at)
            next_at = ScheduleState.of(entity).next_at
            times = [next_at] if next_at is not None else times
            data["segment"] = entity.segment_id
        data["next"] = times[0]
        return data


async def _until_taken(entities: EntityStore, schedule_id: str, updated_at: str) -> Entity:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        entity = await entities.get(schedule_id)
        if entity is not None and str(entity.custom.get("updatedAt", "")) >= updated_at:
            return entity
        if time.monotonic() > deadline:
            raise Failure(
                f"no worker of {BOT_SCHEDULER.name} has taken the event of {schedule_id!r} within {WAIT_SECONDS:g} s; "
                "do workers run? `runtime status`, and `runtime dlq ls` for events that were given up",
                ExitCode.TIMEOUT,
            )
        await asyncio.sleep(_POLL_SECONDS)


def _told(data: dict[str, Any]) -> str:
    return f"{data['id']} {data['version']} is {data['event']}. {data['meaning']}; next at {local(data['next'])}"
