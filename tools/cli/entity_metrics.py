"""`runtime bot metrics` and `runtime schedule metrics`: the numbers that an entity prints, with their last hour."""

import click

from libs.core.api.answers import plain
from libs.core.bot_metrics import EntityMetrics, MetricView
from libs.core.process.service import BOT_RUNNER, BOT_SCHEDULER, ServiceDefinition
from libs.core.sparkline import bars
from libs.core.store.bot_metrics import BotMetricsStore
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.local_time import local
from tools.cli.output import output_option, show, table

_COLUMNS = ("metric", "value", "printed", "last hour", "fields")


@click.command("metrics")
@click.argument("bot_id", metavar="ID")
@output_option
def bot_metrics(bot_id: str, output: str) -> None:
    """Show the metrics that a bot has printed: latest values and the last hour.

    A metric is a line of output that is a JSON object with the field `_metric`. Exit code 4 when there is no such bot.
    """
    _print(BOT_RUNNER, bot_id, output)


@click.command("metrics")
@click.argument("schedule_id", metavar="ID")
@output_option
def schedule_metrics(schedule_id: str, output: str) -> None:
    """Show the metrics that a schedule's runs have printed: latest values and the last hour.

    A metric is a line of output that is a JSON object with the field `_metric`. Exit code 4 when there is no such
    schedule.
    """
    _print(BOT_SCHEDULER, schedule_id, output)


def _print(service: ServiceDefinition, entity_id: str, output: str) -> None:
    found = interrupts.run(_found(service, entity_id))

    def text() -> None:
        table(_COLUMNS, [_cells(metric) for metric in found.metrics], empty=f"{entity_id} has printed no metrics.")
        if found.left_out:
            click.echo("It prints more metrics than METRICS_BOT_NAMES allows; the others are left out.", err=True)

    show(output, plain(found), text)


async def _found(service: ServiceDefinition, entity_id: str) -> EntityMetrics:
    async with connected() as servers:
        found = await BotMetricsStore(await servers.database(service), service.collection).of(entity_id)
        if found is None:
            group = service.noun
            words = f"there is no {group} {entity_id!r}; `runtime {group} ls` lists all {group}s"
            raise Failure(words, ExitCode.NOT_FOUND)
        return found


def _cells(metric: MetricView) -> tuple[object, ...]:
    return (
        metric.name,
        f"{metric.value:,.10g}" if metric.value is not None else None,
        local(metric.at),
        bars(metric),
        ", ".join(f"{name}: {text}" for name, text in metric.texts.items()),
    )
