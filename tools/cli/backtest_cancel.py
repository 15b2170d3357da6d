"""`runtime backtest cancel`: cancel a backtest permanently."""

import asyncio
from typing import Any

import click

from libs.core.process.service import BACKTEST_RUNNER
from tools.backtests.cancellation import request_cancellation
from tools.backtests.results import known_of
from tools.cli import interrupts
from tools.cli.bot_waiting import WAIT_SECONDS, wait_option
from tools.cli.connections import Connections, connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import output_option, show


@click.command()
@click.argument("backtest_id", metavar="ID")
@wait_option
@output_option
def cancel(backtest_id: str, no_wait: bool, output: str) -> None:
    """Cancel a waiting or running backtest. It is recorded as failed, with the reason cancelled."""
    data = interrupts.run(_cancel(backtest_id, not no_wait))
    show(output, data, lambda: click.echo(f"{backtest_id} is {data['state']}"))


async def _cancel(backtest_id: str, wait: bool) -> dict[str, Any]:
    async with connected() as servers:
        await _request(servers, backtest_id)
        entities = await servers.entities(BACKTEST_RUNNER)
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
        while wait and await entities.get(backtest_id) is not None:
            if asyncio.get_running_loop().time() > deadline:
                raise Failure(f"{backtest_id!r} did not end in time; it may still end", ExitCode.TIMEOUT)
            await asyncio.sleep(0.05)
        return {"id": backtest_id, "state": "cancelled" if wait else "being cancelled"}


async def _request(servers: Connections, backtest_id: str) -> None:
    """Write the request into the document, and wake the owner of its segment.

    Raises:
        Failure: it is already completed, or does not exist.
    """
    if not await request_cancellation(servers, backtest_id):
        known = await known_of(servers, backtest_id)
        words = "is already completed" if known is not None else "does not exist"
        raise Failure(f"the backtest {backtest_id!r} {words}", ExitCode.NOT_FOUND)
