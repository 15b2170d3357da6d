"""`runtime schedule config`: show and change the config of a schedule."""

import click

from libs.core.process.service import BOT_SCHEDULER
from services.bot_scheduler.policy import read_definition
from services.bot_scheduler.upkeep import derive_next
from tools.cli import interrupts
from tools.cli.bot_waiting import wait_option
from tools.cli.config_commands import (
    Change,
    Target,
    as_text,
    changed,
    keys_argument,
    reveal_option,
    setting,
    shown,
    unsetting,
    values_argument,
)
from tools.cli.connections import Connections
from tools.cli.output import output_option
from tools.cli.output import show as show_data
from tools.cli.schedule_deploy import next_times

id_argument = click.argument("schedule_id", metavar="ID")


@click.group()
def config() -> None:
    """Show or change the config of a schedule. A change applies from the next run."""


@config.command()
@id_argument
@reveal_option
@output_option
def show(schedule_id: str, reveal: bool, output: str) -> None:
    """Show the config of a schedule; values that look like secrets are masked."""
    data = interrupts.run(shown(Target(BOT_SCHEDULER, schedule_id), reveal=reveal))
    show_data(output, data, lambda: click.echo(as_text(data)))


@config.command("set")
@id_argument
@values_argument
@wait_option
@output_option
def set_values(schedule_id: str, values: tuple[str, ...], no_wait: bool, output: str) -> None:
    """Set values of a schedule's config: timezone=Europe/Berlin, limits.max=5.

    KEY may contain dots to set a value in an object. VALUE is JSON, or else text.
    """
    _change(schedule_id, setting(values), no_wait, output)


@config.command()
@id_argument
@keys_argument
@wait_option
@output_option
def unset(schedule_id: str, keys: tuple[str, ...], no_wait: bool, output: str) -> None:
    """Remove keys from a schedule's config."""
    _change(schedule_id, unsetting(keys), no_wait, output)


def _change(schedule_id: str, change: Change, no_wait: bool, output: str) -> None:
    async def watch(servers: Connections, entity_id: str, updated_at: str) -> dict[str, object]:
        return {} if no_wait else await next_times(servers, entity_id, updated_at)

    target = Target(BOT_SCHEDULER, schedule_id, check=read_definition, derive=derive_next())
    data = interrupts.run(changed(target, change, beside={}, watch=watch))
    text = f"{schedule_id} is updated" if data["changed"] else f"{schedule_id} already has that config"
    show_data(output, data, lambda: click.echo(text))
