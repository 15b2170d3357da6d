"""`runtime bot deploy`: from a folder to a running bot."""

from pathlib import Path
from typing import Any

import click

from libs.core.service import BOT_RUNNER
from libs.core.store.runs import RunStore
from tools.bots.deploying import announce, upload
from tools.bots.folder import read_folder
from tools.bots.outcome import until_settled
from tools.bots.package import pack
from tools.cli import interrupts
from tools.cli.bot_waiting import WAIT_SECONDS, in_time, wait_option
from tools.cli.connections import connected
from tools.cli.folder_options import config_of, config_option, directory_argument, entrypoint_option, runtime_option
from tools.cli.output import output_option, show


@click.command()
@directory_argument
@click.option("--id", "bot_id", help="The bot's id.  [the name in bot.json, else the folder's name]")
@config_option
@runtime_option
@entrypoint_option
@wait_option
@output_option
def deploy(
    directory: Path,
    bot_id: str | None,
    config: str | None,
    runtime: str | None,
    entrypoint: str | None,
    no_wait: bool,
    output: str,
) -> None:
    """Upload the bot in DIRECTORY and run it, or bring it to this version if it exists.

    Exit code 1 when the bot does not run (its last lines are shown), 5 when nothing is known after a minute.
    """
    data = interrupts.run(_deploy(directory, bot_id, config, runtime, entrypoint, not no_wait))
    show(output, data, lambda: click.echo(_told(data)))


async def _deploy(
    directory: Path, bot_id: str | None, config: str | None, runtime: str | None, entrypoint: str | None, wait: bool
) -> dict[str, Any]:
    folder = read_folder(directory, runtime, entrypoint)
    config_now = {**folder.config, **config_of(config)}
    package = pack(directory)
    async with connected() as servers:
        entities = await servers.entities(BOT_RUNNER)
        uploaded = await upload(servers, folder, bot_id or folder.name, package)
        announced = await announce(servers, BOT_RUNNER, entities, uploaded, config_now)
        data = announced.facts()
        if wait:
            runs = RunStore(await servers.database(BOT_RUNNER))
            settled = await in_time(
                until_settled(entities, runs, uploaded.entity_id, announced.updated_at, WAIT_SECONDS)
            )
            data |= {
                "state": settled.state,
                "detail": settled.detail,
                "worker": settled.worker,
                "container": settled.container,
                "segment": settled.segment,
            }
        return data


def _told(data: dict[str, Any]) -> str:
    text = f"{data['id']} {data['version']} is {data['event']}"
    if "state" in data:
        where = f" on {data['worker']} (segment {data['segment']})" if data["worker"] else ""
        text += f", and {data['state']}{where}"
        text += f": {data['detail']}" if data["detail"] else ""
    return text
