"""`runtime backtest run`: run a folder as a backtest and show its metrics."""

import asyncio
import contextlib
import json
import secrets
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import click

from libs.core.process.service import BACKTEST_RUNNER
from tools.author.checks import refuse_config
from tools.backtests.results import Known, known_of, output_of
from tools.bots.config_edit import assignment_parts, assignments, with_values
from tools.bots.deploying import announce, upload
from tools.bots.folder import BotFolder, read_folder
from tools.cli import interrupts
from tools.cli.backtest_logs import printed
from tools.cli.backtest_progress import RunProgress
from tools.cli.backtest_show import html_option, show_result
from tools.cli.backtest_sweep import run_sweep
from tools.cli.bot_waiting import WAIT_SECONDS
from tools.cli.connections import Connections, connected
from tools.cli.dependency_options import built, no_build_option
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.folder_options import (
    config_of,
    config_option,
    data_option,
    directory_argument,
    entrypoint_option,
    env_file_option,
    runtime_option,
    warn_of_unknown,
)
from tools.cli.output import cell, output_option
from tools.cli.sweep_options import SweepFlags, sweep_options
from tools.cli.untrusted import harmless


@click.command()
@directory_argument
@click.option("--id", "backtest_id", help="The backtest's id, which must be new.  [the folder's name and a number]")
@config_option
@runtime_option
@entrypoint_option
@sweep_options
@html_option
@click.option("--local", is_flag=True, help="Run it here, in its image and its sandbox, without servers.")
@env_file_option
@data_option
@no_build_option
@click.option("--no-wait", is_flag=True, help="Return as soon as the event is published.")
@output_option
def run(
    directory: Path,
    backtest_id: str | None,
    config: str | None,
    runtime: str | None,
    entrypoint: str | None,
    set_texts: tuple[str, ...],
    sweep_texts: tuple[str, ...],
    jobs: int,
    resume: bool,
    most: int,
    html_file: Path | None,
    local: bool,
    env_file: Path | None,
    data: tuple[str, ...],
    no_build: bool,
    no_wait: bool,
    output: str,
) -> int:
    """Upload the folder DIRECTORY, run its backtest, show its output as it is printed, and then its metrics.

    Exit code 1 when it failed. Ctrl-C leaves it running: `runtime backtest cancel` cancels it.

    With --sweep, a backtest is run for each combination of values, and a table shows the results. Exit code 1 when one
    failed. Ctrl-C cancels those that are open; --resume continues the sweep.

    With --local, no server is needed: Ctrl-C stops it, and the exit code is the backtest's.
    """
    folder = read_folder(directory, runtime, entrypoint, kind="backtest")
    given = {**folder.config, **config_of(config)}
    folder = replace(folder, config=with_values(given, assignments(set_texts)))
    swept = [(key, None) for key, _ in map(assignment_parts, sweep_texts)]
    warn_of_unknown(folder.description, with_values(folder.config, swept), "backtest")
    if resume and (backtest_id is None or not sweep_texts):
        raise click.UsageError("--resume needs --sweep and the --id of the interrupted sweep")
    is_new = backtest_id is None
    backtest_id = backtest_id or f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    if env_file is not None and not local:
        raise click.UsageError("--env-file needs --local: a deployed backtest gets its values by its config")
    if data and not local:
        raise click.UsageError("--data needs --local: upload the data set with `runtime bot data put`")
    if local:
        if sweep_texts or no_wait:
            raise click.UsageError(f"--local has no {'--sweep' if sweep_texts else '--no-wait'}; leave it out")
        # Imported when it is needed: the SDK of the engine is slow to import.
        from tools.cli.backtest_local import run_backtest_here

        return run_backtest_here(folder, backtest_id, env_file, html_file, output, no_build=no_build, data=data)
    if sweep_texts:
        if no_wait:
            raise click.UsageError("--sweep has no --no-wait; leave it out")
        flags = SweepFlags(set_texts, sweep_texts, jobs, most, resume)
        return run_sweep(folder, backtest_id, flags, html_file, output, is_new=is_new, no_build=no_build)
    known, printed_text = interrupts.run(
        _run(folder, backtest_id, not no_wait, quiet=output == "json", no_build=no_build)
    )
    if known is None:
        click.echo(json.dumps({"id": backtest_id}) if output == "json" else f"{backtest_id} is announced")
        return ExitCode.OK
    return show_result(known, printed_text, html_file, output)


async def _run(
    folder: BotFolder, backtest_id: str, wait: bool, *, quiet: bool, no_build: bool
) -> tuple[Known | None, str]:
    refuse_config(folder, "backtest", folder.config)
    folder, package = await built(folder, no_build=no_build)
    async with connected() as servers:
        if await known_of(servers, backtest_id) is not None:
            raise Failure(f"backtest {backtest_id!r} already exists, and each runs only once; give another --id")
        with RunProgress(backtest_id, quiet=quiet) as progress:
            progress.step(f"uploading {package.files} file{'s' if package.files > 1 else ''}")
            uploaded = await upload(servers, BACKTEST_RUNNER, folder, backtest_id, package)
            entities = await servers.entities(BACKTEST_RUNNER)
            try:
                await announce(servers, BACKTEST_RUNNER, entities, uploaded, folder.config)
                if not wait:
                    return None, ""
                progress.step("waiting for a worker")
                await _until_known(servers, backtest_id)
                await interrupts.while_running(
                    progress.watch(entities, await servers.owners(BACKTEST_RUNNER)),
                    _show_output(servers, backtest_id, quiet),
                )
            except asyncio.CancelledError:
                progress.leave(_goes_on(backtest_id))
                raise
            progress.step("done")
        return await known_of(servers, backtest_id), await output_of(servers, backtest_id)


def _goes_on(backtest_id: str) -> str:
    # After the two dashes a name that begins with a dash is not an option.
    name = shlex.quote(backtest_id) if not backtest_id.startswith("-") else f"-- {shlex.quote(backtest_id)}"
    return (
        f"{cell(backtest_id)} continues to run:\n"
        f"  runtime backtest logs -f {cell(name)}    its output\n"
        f"  runtime backtest show {cell(name)}    its result\n"
        f"  runtime backtest cancel {cell(name)}    cancel it"
    )


async def _until_known(servers: Connections, backtest_id: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while await known_of(servers, backtest_id) is None:
        if time.monotonic() > deadline:
            raise Failure(f"no worker of {BACKTEST_RUNNER.name} has read the event yet", ExitCode.TIMEOUT)
        await asyncio.sleep(0.05)


async def _show_output(servers: Connections, backtest_id: str, quiet: bool) -> None:
    """Show its output until it is completed, except the last line: the result is shown separately."""
    perhaps_result: str | None = None
    async with contextlib.aclosing(printed(servers, backtest_id, follow=True)) as lines:
        async for line in lines:
            shown = [text for text in (perhaps_result, line) if text is not None]
            perhaps_result = shown.pop() if line.startswith("{") else None
            for text in shown:
                if not quiet:
                    click.echo(harmless(text))
            sys.stdout.flush()
