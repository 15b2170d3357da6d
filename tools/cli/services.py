"""`runtime bot-runner master|worker` and its siblings: what containers and Kubernetes run."""

import importlib
from collections.abc import Callable
from typing import Any

import click

from libs.core.service import BACKTEST_RUNNER, BOT_RUNNER, BOT_SCHEDULER, ServiceDefinition

_ROLES = {
    "master": "Decide which worker owns which segment. Several may run; one of them leads.",
    "worker": "Own one segment at a time and run what is in it.",
}


def _flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that every process has. One that is not given leaves the setting to the environment."""
    options = (
        click.option("--max-segment", help="Segments this deployment is sized for; above, masters warn.  [16]"),
        click.option("--mode", help="How workers find the master: cluster or standalone.  [cluster]"),
        click.option("--mongo-uri", help="Connection string of MongoDB.  [mongodb://localhost:27017]"),
        click.option("--worker-id", help="Name of this process.  [<hostname>-<pid>]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _run(service: ServiceDefinition, role: str, flags: dict[str, object]) -> int:
    module = importlib.import_module(f"services.{service.name.replace('-', '_')}.{role}")
    exit_code: int = module.main(flags)
    return exit_code


def _group(service: ServiceDefinition) -> click.Group:
    group = click.Group(
        service.name,
        help=f"Processes of {service.name}. All settings are environment variables, which the README lists; "
        f"a flag beats its variable.",
    )
    for role, text in _ROLES.items():
        group.add_command(_role(service, role, text))
    return group


def _role(service: ServiceDefinition, role: str, text: str) -> click.Command:
    @click.command(role, help=text)
    @_flags
    def command(**flags: object) -> int:
        return _run(service, role, flags)

    return command


def _standalone(service: ServiceDefinition) -> click.Command:
    @click.command("standalone", help="Run a master or a worker without a cluster: --mode is standalone.")
    @click.option("--node", type=click.Choice(list(_ROLES)), required=True, help="Which of the two to run.")
    @_flags
    def command(node: str, **flags: object) -> int:
        return _run(service, node, {**flags, "mode": flags.get("mode") or "standalone"})

    return command


bot_runner = _group(BOT_RUNNER)
backtest_runner = _group(BACKTEST_RUNNER)
backtest_runner.add_command(_standalone(BACKTEST_RUNNER))
bot_scheduler = _group(BOT_SCHEDULER)
