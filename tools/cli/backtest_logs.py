"""`runtime backtest logs`: a backtest's output, live from the worker that runs it or from the storage."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from http import HTTPStatus

import aiohttp
import click

from libs.core.api.log_output import MOST_LINES
from libs.core.api.remote_output import ask, new_session, next_piece
from libs.core.process.service import BACKTEST_RUNNER
from libs.core.store.entity_views import EntityViews
from libs.core.store.processes import KnownProcess, ProcessStore
from tools.backtests.results import known_of, output_of
from tools.cli import interrupts
from tools.cli.connections import Connections, connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.live_output import Lines, unseen
from tools.cli.local_user import user_of_this_machine
from tools.cli.output import output_option, print_lines, raw_option

_POLL_SECONDS = 0.1
_QUIET_SECONDS = 5.0
_REMEMBERED_LINES = 500
_LONG_RESULT = 200


@click.command()
@click.argument("backtest_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Follow new output until it is completed.")
@raw_option
@output_option
def logs(backtest_id: str, follow: bool, raw: bool, output: str) -> None:
    """Show the output of a backtest.

    During the run it comes from the worker, on any machine; -f streams it. After completion it comes from
    the storage. The last line is the result: a long one is shown only by `runtime backtest show` and with
    --output json.
    """
    interrupts.run(_logs(backtest_id, follow, raw, output))


async def _logs(backtest_id: str, follow: bool, raw: bool, output: str) -> None:
    async with connected() as servers:
        if await known_of(servers, backtest_id) is None:
            raise Failure(f"there is no backtest {backtest_id!r}, and no record of one", ExitCode.NOT_FOUND)
        lines = printed(servers, backtest_id, follow)
        shown = lines if output == "json" else without_result(backtest_id, lines)
        await print_lines(backtest_id, shown, output, raw=raw)


async def without_result(backtest_id: str, lines: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """Yield *lines* with a note in place of a long result, which is the last one."""
    perhaps_result = ""
    async with contextlib.aclosing(lines):
        async for line in lines:
            if perhaps_result:
                yield perhaps_result
            perhaps_result = line if len(line) > _LONG_RESULT and line.startswith(("{", "[")) else ""
            if not perhaps_result:
                yield line
    if perhaps_result:
        yield f"(result of {len(perhaps_result):,} characters omitted: runtime backtest show {backtest_id})"


async def printed(servers: Connections, backtest_id: str, follow: bool) -> AsyncGenerator[str, None]:
    """Yield its lines: of each attempt from its worker, and finally the missing ones of the last attempt.

    Waits for the end only with *follow*.
    """
    database = await servers.database(BACKTEST_RUNNER)
    entities, processes = EntityViews(database, BACKTEST_RUNNER.collection), ProcessStore(database)
    shown: deque[str] = deque(maxlen=_REMEMBERED_LINES)
    watched: str | None = None
    async with new_session() as session:
        while (entity := await entities.get(backtest_id)) is not None:
            owner = await processes.owner(entity.segment) if entity.segment is not None else None
            # Lines of an attempt are not repeated after a broken connection.
            tail = 0 if watched is not None and watched == entity.run_id else MOST_LINES
            workers = [owner] if owner is not None else []
            answer = await ask(session, workers, backtest_id, tail=tail, follow=follow, who=user_of_this_machine())
            if answer is not None:
                goes_on = partial(_runs_at, owner, backtest_id, entities, processes)
                async with contextlib.aclosing(_lines_of(answer, goes_on)) as lines:
                    async for line in lines:
                        shown.append(line)
                        yield line
                entity = await entities.get(backtest_id)
                watched = entity.run_id if entity is not None else None
            if not follow:
                return
            await asyncio.sleep(_POLL_SECONDS)
    for line in unseen(shown, (await output_of(servers, backtest_id)).splitlines()):
        yield line


async def _runs_at(
    worker: KnownProcess | None, backtest_id: str, entities: EntityViews, processes: ProcessStore
) -> bool:
    entity = await entities.get(backtest_id)
    return entity is not None and entity.segment is not None and await processes.owner(entity.segment) == worker


async def _lines_of(
    answer: aiohttp.ClientResponse, goes_on: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[str, None]:
    """Yield the lines of *answer*, until it ends, or is silent and the backtest has moved."""
    lines = Lines()
    try:
        while answer.status == HTTPStatus.OK:
            try:
                async with asyncio.timeout(_QUIET_SECONDS):
                    piece = await next_piece(answer)
            except TimeoutError:
                # A lost machine stays silent forever; but so does a backtest that computes.
                if await goes_on():
                    continue
                break
            if not piece:
                break
            for line in lines.add(piece):
                yield line
    finally:
        answer.close()
    for line in lines.rest():
        yield line
