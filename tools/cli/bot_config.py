"""`runtime bot config`: show and change the config of a bot."""

from typing import Any

import click

from libs.core.process.service import BOT_RUNNER
from tools.cli import interrupts
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
from tools.cli.health_options import Health, health_of, health_options, health_text
from tools.cli.output import output_option
from tools.cli.output import show as show_data

id_argument = click.argument("bot_id", metavar="ID")


@click.group()
def config() -> None:
    """Show or change the config of a bot. A change restarts the bot, as a deploy does."""


@config.command()
@id_argument
@reveal_option
@output_option
def show(bot_id: str, reveal: bool, output: str) -> None:
    """Show the config of a bot; values that look like secrets are masked."""
    data = interrupts.run(shown(Target(BOT_RUNNER, bot_id), reveal=reveal))
    show_data(output, data, lambda: click.echo(as_text(data)))


@config.command("set")
@id_argument
@values_argument
@health_options
@output_option
def set_values(
    bot_id: str, values: tuple[str, ...], wait_seconds: float, no_wait: bool, no_rollback: bool, output: str
) -> None:
    """Set values of a bot's config, and restart the bot.

    KEY may contain dots to set a value in an object: limits.max=5. VALUE is JSON, or else text: symbol=BTC-USD.
    """
    _change(bot_id, setting(values), health_of(wait_seconds, no_wait, no_rollback), output)


@config.command()
@id_argument
@keys_argument
@health_options
@output_option
def unset(
    bot_id: str, keys: tuple[str, ...], wait_seconds: float, no_wait: bool, no_rollback: bool, output: str
) -> None:
    """Remove keys from a bot's config and restart it."""
    _change(bot_id, unsetting(keys), health_of(wait_seconds, no_wait, no_rollback), output)


def _change(bot_id: str, change: Change, health: Health, output: str) -> None:
    data = interrupts.run(changed(Target(BOT_RUNNER, bot_id), change, beside=health.fields, watch=health.watch))
    show_data(output, data, lambda: click.echo(_said(data)))


def _said(data: dict[str, Any]) -> str:
    if not data["changed"]:
        return f"{data['id']} already has that config"
    return f"{data['id']} is updated, and {health_text(data)}" if health_text(data) else f"{data['id']} is updated"
