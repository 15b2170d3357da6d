"""`runtime backtest logs`: a backtest's output, live from its container or out of the storage."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator

import click

from libs.core.service import BACKTEST_RUNNER
from libs.core.store.deployment import deployment_id
from tools.backtests.results import known_of, output_of
from tools.cli import interrupts
from tools.cli.connections import Connections, connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import output_option, write_json
from tools.dev.containers import Containers
from tools.engine.probe import engine_url, why_not

_POLL_SECONDS = 0.1


@click.command()
@click.argument("backtest_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on with what it prints, until it is done.")
@output_option
def logs(backtest_id: str, follow: bool, output: str) -> None:
    """Show what a backtest printed.

    While it runs on this machine's engine its output is shown as it comes; when it is done, it is in the storage.
    """
    interrupts.run(_logs(backtest_id, follow, output))


async def _logs(backtest_id: str, follow: bool, output: str) -> None:
    async with connected() as servers:
        if await known_of(servers, backtest_id) is None:
            raise Failure(f"there is no backtest {backtest_id!r}, and nothing is known of one", ExitCode.NOT_FOUND)
        async with contextlib.aclosing(printed(servers, backtest_id, follow)) as lines:
            async for line in lines:
                if output == "json":
                    write_json({"id": backtest_id, "line": line})
                else:
                    click.echo(line)
                sys.stdout.flush()


async def printed(servers: Connections, backtest_id: str, follow: bool) -> AsyncGenerator[str, None]:
    """Its lines: of each attempt that can be watched from here, and at the end what was missed of the last one."""
    entities = await servers.entities(BACKTEST_RUNNER)
    scope = await deployment_id(await servers.database(BACKTEST_RUNNER))
    url = engine_url()
    seen: set[str] = set()
    shown = 0
    async with contextlib.AsyncExitStack() as stack:
        containers = await stack.enter_async_context(Containers(url, [scope])) if why_not(url) is None else None
        while await entities.get(backtest_id) is not None:
            found = await containers.all(backtest_id, BACKTEST_RUNNER.name) if containers is not None else []
            for container in found:
                if containers is not None and container.has_started and container.container_id not in seen:
                    seen.add(container.container_id)
                    shown = 0
                    async for line in containers.output(container.container_id, follow=follow):
                        shown += 1
                        yield line
            if not follow:
                return
            await asyncio.sleep(_POLL_SECONDS)
    for line in (await output_of(servers, backtest_id)).splitlines()[shown:]:
        yield line
