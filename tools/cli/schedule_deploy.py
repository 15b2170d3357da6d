"""`runtime schedule deploy`: deploy a folder as a schedule."""

import asyncio
import time
from pathlib import Path
from typing import Any

import click

from libs.core.process.service import BOT_SCHEDULER
from libs.core.store.entities import Entity, EntityStore
from services.bot_scheduler.cron import upcoming
from services.bot_scheduler.explain import explain
from services.bot_scheduler.policy import read_definition
from services.bot_scheduler.state import ScheduleState
from services.bot_scheduler.upkeep import derive_next
from tools.author.checks import refuse_config
from tools.bots.deploying import announce, upload
from tools.bots.redeploy import Flags, kept_fields
from tools.cli import interrupts
from tools.cli.bot_waiting import WAIT_SECONDS, wait_option
from tools.cli.connections import Connections, connected
from tools.cli.dependency_options import built, no_build_option
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.folder_options import (
    config_of,
    config_option,
    directory_argument,
    entrypoint_option,
    reset_option,
    runtime_option,
)
from tools.cli.local_time import local
from tools.cli.output import output_option, show
from tools.cli.stored_version import folder_and_known

_POLL_SECONDS = 0.05


@click.command()
@directory_argument
@click.option("--schedule", "expression", help="The cron expression.  [config.schedule in bot.json]")
@click.option("--timezone", help="Time zone of the expression, such as Europe/Berlin.  [config.timezone, else UTC]")
@click.option("--id", "schedule_id", help="The schedule's id.  [the name in bot.json, else the folder's name]")
@config_option
@reset_option
@runtime_option
@entrypoint_option
@no_build_option
@wait_option
@output_option
def deploy(
    directory: Path,
    expression: str | None,
    timezone: str | None,
    schedule_id: str | None,
    config: str | None,
    reset_config: bool,
    runtime: str | None,
    entrypoint: str | None,
    no_build: bool,
    no_wait: bool,
    output: str,
) -> None:
    """Upload the bot in DIRECTORY and run it on a schedule, or update an existing schedule to this version.

    Values of flags are kept for later deploys: schedule and time zone too.

    Exit code 2 when the expression is invalid, 5 when no worker has processed the event after a minute.
    """
    given = {"schedule": expression, "timezone": timezone}
    over = {**config_of(config), **{name: value for name, value in given.items() if value is not None}}
    flags = Flags(over, runtime, entrypoint, reset_config)
    data = interrupts.run(_deploy(directory, schedule_id, flags, not no_wait, no_build=no_build))
    show(output, data, lambda: click.echo(_summary(data)))


async def _deploy(
    directory: Path, schedule_id: str | None, flags: Flags, wait: bool, *, no_build: bool
) -> dict[str, Any]:
    if flags.config.get("schedule") is not None:
        # Checked here instead of by a dead letter later.
        read_definition(flags.config)
    async with connected() as servers:
        folder, known, flags = await folder_and_known(servers, BOT_SCHEDULER, directory, schedule_id, flags)
        config = flags.config_for(known, folder.config)
        if config.get("schedule") is None:
            raise click.UsageError(
                f'{directory} does not say when it runs: give --schedule "0 9 * * MON-FRI", or write config.schedule '
                "in its bot.json"
            )
        definition = read_definition(config)
        refuse_config(folder, "bot", config)
        folder, package = await built(folder, no_build=no_build)
        entities = await servers.entities(BOT_SCHEDULER, derive_next())
        uploaded = await upload(servers, BOT_SCHEDULER, folder, schedule_id or folder.name, package, known)
        announced = await announce(
            servers,
            BOT_SCHEDULER,
            entities,
            uploaded,
            config,
            record=flags.record(folder.config),
            beside=kept_fields(known),
        )
        data = {**announced.facts(), "meaning": explain(definition.schedule)}
        data["next"] = next(upcoming(definition.schedule, time.time()), None)
        if wait:
            taken = await next_times(servers, uploaded.entity_id, announced.deployment.updated_at)
            data["segment"] = taken["segment"]
            data["next"] = taken["next"] or data["next"]
        return data


async def next_times(servers: Connections, schedule_id: str, updated_at: str) -> dict[str, Any]:
    """Wait until a worker has the version of *updated_at*; return its segment and its next time.

    Raises:
        Failure: none has within a minute.
    """
    entity = await _until_taken(await servers.entities(BOT_SCHEDULER), schedule_id, updated_at)
    return {"segment": entity.segment_id, "next": ScheduleState.of(entity).next_at}


async def _until_taken(entities: EntityStore, schedule_id: str, updated_at: str) -> Entity:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        entity = await entities.get(schedule_id)
        if entity is not None and str(entity.custom.get("updatedAt", "")) >= updated_at:
            return entity
        if time.monotonic() > deadline:
            raise Failure(
                f"no worker of {BOT_SCHEDULER.name} has taken the event of {schedule_id!r} within {WAIT_SECONDS:g} s; "
                "check `runtime status` for workers and `runtime dlq ls` for dead letters",
                ExitCode.TIMEOUT,
            )
        await asyncio.sleep(_POLL_SECONDS)


def _summary(data: dict[str, Any]) -> str:
    return f"{data['id']} {data['version']} is {data['event']}. {data['meaning']}; next at {local(data['next'])}"
