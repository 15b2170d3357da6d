"""`runtime bot logs`: the output of a bot, stored and live."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from libs.core.api.log_output import MOST_LINES
from libs.core.api.parameters import instant_of
from libs.core.process.service import BOT_RUNNER, ServiceDefinition
from libs.core.store.runs import RunStore
from libs.docker_runner.logs.lines import Line, Wanted, microseconds, rfc3339, stamp
from tools.cli import interrupts
from tools.cli.connections import Connections, connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.live_output import EntityOutput
from tools.cli.log_grep import Grep
from tools.cli.output import output_option, raw_option, write_json
from tools.cli.run_marks import RunMarks
from tools.cli.untrusted import harmless

_LINES = 100
_POLL_SECONDS = 1.0
# The start of a run is recorded by another clock than its lines.
_CLOCKS_APART = timedelta(seconds=60)

F = TypeVar("F", bound=Callable[..., object])


class _Moment(click.ParamType[datetime]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return instant_of(str(value), datetime.now(UTC))
        except ValueError:
            self.fail(f"{value!r} is not a time: use an age such as 10m or 1h30m, or 2026-01-31T12:00:00Z")


def log_options(command: F) -> F:
    """Add the options of `logs`."""
    options = [
        click.option("-f", "--follow", is_flag=True, help="Follow new output until Ctrl-C."),
        click.option(
            "-n",
            "--lines",
            type=click.IntRange(0, MOST_LINES),
            help=f"Number of last lines to show: {_LINES} by default, all with --since or --run. With --grep, number "
            "of last lines to search.",
        ),
        click.option("--timestamps", is_flag=True, help="Show each line's time, in UTC."),
        click.option("--since", type=_Moment(), help="Only lines since this time: 10m, 1h30m, 2026-01-31T12:00:00Z."),
        click.option("--until", type=_Moment(), help="Only lines until this time."),
        click.option("--run", "run", metavar="N|ID|last", help="Only lines of one run."),
        raw_option,
        click.option("--grep", metavar="REGEX", help="Only lines that contain this regular expression."),
        output_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("bot_id", metavar="ID")
@log_options
def logs(bot_id: str, **options: Any) -> None:
    """Show the output of a bot.

    It comes from the worker that runs the bot, on any machine; with -f within a second. If no worker can be
    reached, it comes from the storage, up to half a minute late. The start and the end of each run are marked.
    """
    interrupts.run(show_output(BOT_RUNNER, bot_id, **options))


async def show_output(
    service: ServiceDefinition,
    entity_id: str,
    *,
    follow: bool,
    lines: int | None,
    timestamps: bool,
    since: datetime | None,
    until: datetime | None,
    run: str | None,
    grep: str | None,
    raw: bool,
    output: str,
) -> None:
    """Print the output of a bot or a schedule; with *follow* until it is cancelled.

    Raises:
        Failure: there is no such entity and no output of one; or no such run.
    """
    searched = Grep(grep) if grep is not None else None
    async with connected() as servers:
        runs = RunStore(await servers.database(service))
        run_id, since = await _run_of(runs, entity_id, run, since) if run is not None else ("", since)
        if lines is None and since is None:
            lines = MOST_LINES if searched is not None else _LINES
        wanted = Wanted(
            tail=lines,
            since_us=microseconds(since) if since is not None else None,
            until_us=microseconds(until) if until is not None else None,
            run=run_id,
        )
        read = EntityOutput(servers, service, entity_id, lambda text: click.echo(f"({text})", err=True))
        marks = RunMarks(runs, entity_id, lambda: _status(servers, service, entity_id), only=run_id)
        async with contextlib.aclosing(read.entries(wanted, follow=follow)) as entries:
            async for line in _with_pauses(entries):
                if line is None:
                    if output != "json" and follow and searched is None:
                        async for mark in marks.idle():
                            click.echo(harmless(mark))
                elif searched is None or searched.matches(line.text):
                    shown = line.text if raw else harmless(line.text)
                    before = marks if searched is None else None
                    await _print(entity_id, line, shown, before, output, timestamps=timestamps)
                sys.stdout.flush()
        if output != "json" and not follow and searched is None and until is None:
            async for mark in marks.idle(quiet_seconds=0.0):
                click.echo(harmless(mark))


async def _print(
    entity_id: str, line: Line, shown: str, marks: RunMarks | None, output: str, *, timestamps: bool
) -> None:
    if output == "json":
        at = rfc3339(line.time) if line.time is not None else None
        run, stream = line.run or None, line.stream or None
        write_json({"id": entity_id, "time": at, "run": run, "stream": stream, "line": line.text})
        return
    for mark in await marks.before(line) if marks is not None else ():
        click.echo(harmless(mark))
    # Escapes are present only if requested, and are then kept also in a pipe.
    click.echo(f"{stamp(line)} {shown}" if timestamps else shown, color=True)


async def _with_pauses(lines: AsyncGenerator[Line, None]) -> AsyncGenerator[Line | None, None]:
    """Yield *lines*, and None after each second without one."""
    coming = asyncio.ensure_future(anext(lines))
    try:
        while True:
            done, _ = await asyncio.wait([coming], timeout=_POLL_SECONDS)
            if not done:
                yield None
                continue
            try:
                line = coming.result()
            except StopAsyncIteration:
                return
            yield line
            coming = asyncio.ensure_future(anext(lines))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def _run_of(runs: RunStore, entity_id: str, wanted: str, since: datetime | None) -> tuple[str, datetime | None]:
    """Return the id of the selected run, and the earliest time of its output."""
    record = await runs.get(wanted)
    if record is None or record.entity_id != entity_id:
        number = 0 if wanted == "last" else int(wanted) if wanted.isascii() and wanted.isdigit() else None
        record = None
        if number is not None and (number or wanted == "last") and number < 2**31:
            record = await runs.numbered(entity_id, number)
    if record is None:
        raise Failure(
            f"{entity_id!r} has no run {wanted!r}; give a number from 1, the id of a run, or last",
            ExitCode.NOT_FOUND,
        )
    return record.run_id, since or record.started_at - _CLOCKS_APART


async def _status(servers: Connections, service: ServiceDefinition, entity_id: str) -> Mapping[str, Any]:
    entity = await (await servers.entities(service)).get(entity_id)
    return entity.status if entity is not None else {}
