"""`runtime bot-runner master|worker` and its siblings: the same processes, flags and texts as in their images."""

import importlib

import click

from libs.core.process.command_line import parse
from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, BOT_SCHEDULER, ServiceDefinition


def _command(service: ServiceDefinition) -> click.Command:
    @click.command(service.name, add_help_option=False, context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> int:
        role, flags = parse(service, arguments, program=f"runtime {service.name}")
        # A master needs less time and memory without the modules of workers.
        module = importlib.import_module(f"services.{service.database}.{role}")
        exit_code: int = module.main(flags)
        return exit_code

    return command


bot_runner = _command(BOT_RUNNER)
backtest_runner = _command(BACKTEST_RUNNER)
bot_scheduler = _command(BOT_SCHEDULER)
