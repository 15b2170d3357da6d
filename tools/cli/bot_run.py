"""`runtime bot run` and `runtime schedule run`: run a folder in the foreground, without servers."""

from dataclasses import replace
from pathlib import Path

import click

from libs.core.process.service import BOT_RUNNER, BOT_SCHEDULER, ServiceDefinition
from tools.bots.folder import read_folder
from tools.cli.dependency_options import no_build_option
from tools.cli.folder_options import (
    config_of,
    config_option,
    data_option,
    directory_argument,
    entrypoint_option,
    env_file_option,
    runtime_option,
    state_option,
)
from tools.cli.local_run import Wanted, run_here


def _command(service: ServiceDefinition, text: str) -> click.Command:
    @click.command("run", help=text)
    @directory_argument
    @click.option("--id", "entity_id", help="The id that `main` gets.  [the name in bot.json, else the folder's name]")
    @config_option
    @env_file_option
    @data_option
    @state_option
    @no_build_option
    @runtime_option
    @entrypoint_option
    def run_folder(
        directory: Path,
        entity_id: str | None,
        config: str | None,
        env_file: Path | None,
        data: tuple[str, ...],
        state: Path | None,
        no_build: bool,
        runtime: str | None,
        entrypoint: str | None,
    ) -> int:
        folder = read_folder(directory, runtime, entrypoint)
        folder = replace(folder, config={**folder.config, **config_of(config)})
        return run_here(Wanted(folder, entity_id or folder.name, "bot", service.name, env_file, no_build, data, state))

    return run_folder


run = _command(
    BOT_RUNNER,
    """Run the bot in DIRECTORY here, once, in its image and its sandbox. Needs a Docker engine, and no servers.

    Its output is shown as it is printed. Ctrl-C stops it as a deployed bot is stopped, with 30 seconds to clean up;
    another Ctrl-C kills it. The exit code is the bot's. Nothing is left behind.
    """,
)
run_schedule = _command(
    BOT_SCHEDULER,
    """Run the bot in DIRECTORY here, once and now, as its schedule would. Needs a Docker engine, and no servers.

    As `runtime bot run`: output, Ctrl-C and the exit code are the same.
    """,
)
