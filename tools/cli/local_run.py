"""Run a folder in the foreground: the common part of the commands that do."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, overload

import click

from libs.core.config.container_settings import ContainerSettings, MaximaSettings
from libs.core.config.image_settings import ImageSettings
from libs.core.config.process_settings import LogSettings
from libs.core.config.secret_settings import SecretSettings
from libs.core.config.settings_loader import load
from libs.core.observability.log import configure
from libs.docker_runner.containers.container import Ended, EndReason, RunOutcome
from libs.docker_runner.containers.endings import describe_end
from libs.docker_runner.containers.keepalive_root import keepalive_root
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.runner import DockerRunner
from libs.docker_runner.settings import IMAGES
from libs.docker_runner.state.archives import StateLimits
from libs.docker_runner.worker.from_settings import runner_settings
from tools.author.checks import refuse_config
from tools.author.local.data import LocalData, local_data
from tools.author.local.env_file import divided, read_env_file
from tools.author.local.run import LocalBot, LocalRun, executable_of, settings_for, unpacked
from tools.author.local.state import saved_meanwhile, state_folder, state_keeper
from tools.author.local.workplace import workplace
from tools.bots.folder import BotFolder, Kind
from tools.cli.dependency_options import built
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.dev.home import home
from tools.engine.ensure import ensure_engine
from tools.images.ensure import ensure_images

T = TypeVar("T")
Writer = Callable[[LogLine], None]


@dataclass(frozen=True)
class Wanted:
    """What is run: *folder*, whose config is that of the run, as *kind* of the service called *service*.

    *data* are the texts of `--data`.
    """

    folder: BotFolder
    entity_id: str
    kind: Kind
    service: str
    env_file: Path | None
    no_build: bool
    data: tuple[str, ...]
    state: Path | None = None


def run_here(wanted: Wanted) -> int:
    """Run it, stream its output, and return its exit code."""
    ended, _ = run_to_its_end(wanted, write_output)
    return exit_code_of(ended)


@overload
def run_to_its_end(wanted: Wanted, write: Writer) -> tuple[Ended, None]: ...


@overload
def run_to_its_end(wanted: Wanted, write: Writer, take: Callable[[RunOutcome], T]) -> tuple[Ended, T]: ...


def run_to_its_end(
    wanted: Wanted, write: Writer, take: Callable[[RunOutcome], T] | None = None
) -> tuple[Ended, T | None]:
    """Run it, and return how it ended, and what *take* made of its result, whose files are then removed.

    Raises:
        UserError, Retryable: it cannot be run.
        Failure: a signal came before it ran.
    """
    try:
        return asyncio.run(_run(wanted, write, take))
    except asyncio.CancelledError:
        raise Failure("", ExitCode.INTERRUPTED) from None


def exit_code_of(ended: Ended) -> int:
    """Return the bot's exit code, after a line about an end that its output does not show."""
    if ended.reason is EndReason.LEASE_LOST:
        _report("it was ended, since this command was suspended")
    elif ended.reason in (EndReason.OOM, EndReason.MISSING, EndReason.KILLED):
        _report(describe_end(ended))
    elif ended.failure is not None and ended.failure.hint:
        _report(ended.failure.hint)
    return ended.exit_code if ended.exit_code is not None else ExitCode.FAILED


async def _run(wanted: Wanted, write: Writer, take: Callable[[RunOutcome], T] | None) -> tuple[Ended, T | None]:
    folder = wanted.folder
    paths = local_data(wanted.data)
    variables, secrets = divided(read_env_file(wanted.env_file) if wanted.env_file is not None else {})
    refuse_config(folder, wanted.kind, folder.config)
    folder, package = await built(folder, no_build=wanted.no_build)
    configure(load(LogSettings, environ={"LOG_LEVEL": "warning"}))
    operator = runner_settings(load(ContainerSettings), load(MaximaSettings), load(ImageSettings), load(SecretSettings))
    found = await ensure_engine(_report)
    if operator.images == IMAGES:
        await ensure_images(found, _report)
    engine = Engine(found.url, operator.engine_timeout_seconds)
    memory = await keepalive_root(operator.keepalive_dir, home() / "local", engine)
    async with AsyncExitStack() as resources:
        folder_of_state = resources.enter_context(state_folder(wanted.state)) if wanted.state is not None else None
        place = await resources.enter_async_context(workplace(home() / "local", memory, found.url))
        settings = settings_for(operator, place, secrets)
        states = None
        if folder_of_state is not None:
            states = state_keeper(folder_of_state, StateLimits(settings.state_bytes), place, wanted.service)
        code = await asyncio.to_thread(unpacked, package, place)
        runner = DockerRunner(engine, code, settings, data=LocalData(paths), states=states)
        try:
            await runner.open()
            bot = LocalBot(wanted.entity_id, folder, variables)
            executable = executable_of(bot, settings, place, wanted.service, Entrypoint(wanted.kind))
            run = LocalRun(runner, executable, place, write, _report, walls_seconds=settings.walls_seconds)
            async with saved_meanwhile(states):
                ended = await run.carry_out(collect=take is not None)
            taken = take(run.outcome) if take is not None and run.outcome is not None else None
            return ended, taken
        finally:
            await runner.close()


def write_output(line: LogLine) -> None:
    """Write a piece of output to the stream from which it came. May block."""
    stream = sys.stderr.buffer if line.stream == "stderr" else sys.stdout.buffer
    stream.write(line.data)
    stream.flush()


def _report(text: str) -> None:
    click.echo(f"runtime: {text}", err=True)
