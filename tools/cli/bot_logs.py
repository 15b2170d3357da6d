"""`runtime bot logs`: a bot's output, out of the storage and live from its container."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator

import click

from libs.core.service import BOT_RUNNER
from libs.core.store.deployment import deployment_id
from libs.docker_runner.log_history import LogHistory
from tools.cli import interrupts
from tools.cli.connections import Connections, connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import output_option, write_json
from tools.dev.containers import BotContainer, Containers
from tools.engine.probe import engine_url, why_not

_POLL_SECONDS = 0.2


@click.command()
@click.argument("bot_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on with what it prints, until Ctrl-C.")
@click.option("-n", "--lines", default=100, show_default=True, type=click.IntRange(0), help="Lines to begin with.")
@output_option
def logs(bot_id: str, follow: bool, lines: int, output: str) -> None:
    """Show what a bot printed.

    Where its container runs on this machine's engine, its output is shown as it comes. Elsewhere the storage is read,
    which workers add to every half minute.
    """
    interrupts.run(_logs(bot_id, follow, lines, output))


async def _logs(bot_id: str, follow: bool, lines: int, output: str) -> None:
    async with connected() as servers, contextlib.aclosing(_output(servers, bot_id, follow, lines)) as printed:
        async for line in printed:
            if output == "json":
                write_json({"id": bot_id, "line": line})
            else:
                click.echo(line)
            sys.stdout.flush()


async def _output(servers: Connections, bot_id: str, follow: bool, lines: int) -> AsyncGenerator[str, None]:
    database = await servers.database(BOT_RUNNER)
    scope = await deployment_id(database)
    url = engine_url()
    if why_not(url) is None:
        async with Containers(url, [scope]) as containers:
            if await _container(containers, bot_id) is not None:
                async with contextlib.aclosing(_live(containers, bot_id, follow, lines)) as live:
                    async for line in live:
                        yield line
                return
    history = LogHistory(servers.storage(), servers.storage_settings().logs_bucket)
    parts = await history.parts(bot_id)
    known = await (await servers.entities(BOT_RUNNER)).get(bot_id)
    if not parts and known is None:
        raise Failure(f"there is no bot {bot_id!r}, and no log of one", ExitCode.NOT_FOUND)
    for line in (await history.tail(parts, lines)).decode(errors="replace").splitlines():
        yield line
    if follow:
        async for chunk in history.follow(bot_id, parts):
            for line in chunk.decode(errors="replace").splitlines():
                yield line


async def _live(containers: Containers, bot_id: str, follow: bool, lines: int) -> AsyncGenerator[str, None]:
    """The output of the bot's container, and of those that replace it."""
    seen: set[str] = set()
    while True:
        container = await _container(containers, bot_id)
        if container is not None and container.container_id not in seen:
            tail = None if seen else lines
            seen.add(container.container_id)
            async for line in containers.output(container.container_id, tail=tail, follow=follow):
                yield line
        if not follow:
            return
        await asyncio.sleep(_POLL_SECONDS)


async def _container(containers: Containers, bot_id: str) -> BotContainer | None:
    found = [container for container in await containers.all(bot_id, BOT_RUNNER.name) if container.has_started]
    return next((container for container in found if container.running), found[0] if found else None)
