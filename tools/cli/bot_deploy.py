"""`runtime bot deploy`: deploy a folder as a bot."""

from pathlib import Path
from typing import Any

import click

from libs.core.process.service import BOT_RUNNER
from tools.author.checks import refuse_config
from tools.bots.deploying import announce, upload
from tools.bots.redeploy import Flags, kept_fields
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.dependency_options import built, no_build_option
from tools.cli.folder_options import (
    config_of,
    config_option,
    directory_argument,
    entrypoint_option,
    reset_option,
    runtime_option,
)
from tools.cli.health_options import Health, health_of, health_options, health_text
from tools.cli.output import output_option, show
from tools.cli.stored_version import folder_and_known


@click.command()
@directory_argument
@click.option("--id", "bot_id", help="The bot's id.  [the name in bot.json, else the folder's name]")
@config_option
@reset_option
@runtime_option
@entrypoint_option
@no_build_option
@health_options
@output_option
def deploy(
    directory: Path,
    bot_id: str | None,
    config: str | None,
    reset_config: bool,
    runtime: str | None,
    entrypoint: str | None,
    no_build: bool,
    wait_seconds: float,
    no_wait: bool,
    no_rollback: bool,
    output: str,
) -> None:
    """Upload the bot in DIRECTORY and run it, or update an existing bot to this version.

    Its dependencies are built first, in the bot's own image, unless they are as at an earlier deploy.

    Values of flags are kept for later deploys. The running version is replaced after the new one was
    checked, and restored if the new one ends while it is watched.

    Exit code 1 when the new version does not run (its last lines are shown), 5 when its state is still unknown after
    a minute.
    """
    flags = Flags(config_of(config), runtime, entrypoint, reset_config)
    data = interrupts.run(
        _deploy(directory, bot_id, flags, health_of(wait_seconds, no_wait, no_rollback), no_build=no_build)
    )
    show(output, data, lambda: click.echo(_said(data)))


async def _deploy(
    directory: Path, bot_id: str | None, flags: Flags, health: Health, *, no_build: bool
) -> dict[str, Any]:
    async with connected() as servers:
        folder, known, flags = await folder_and_known(servers, BOT_RUNNER, directory, bot_id, flags)
        config = flags.config_for(known, folder.config)
        refuse_config(folder, "bot", config)
        folder, package = await built(folder, no_build=no_build)
        entities = await servers.entities(BOT_RUNNER)
        uploaded = await upload(servers, BOT_RUNNER, folder, bot_id or folder.name, package, known)
        announced = await announce(
            servers,
            BOT_RUNNER,
            entities,
            uploaded,
            config,
            record=flags.record(folder.config),
            beside={**kept_fields(known), **health.fields},
        )
        watched = await health.watch(servers, uploaded.entity_id, announced.deployment.updated_at)
        return announced.facts() | watched


def _said(data: dict[str, Any]) -> str:
    text = f"{data['id']} {data['version']} is {data['event']}"
    return f"{text}, and {health_text(data)}" if health_text(data) else text
