"""`runtime bot metrics` and `runtime schedule metrics`: the numbers that an entity prints, with their last hour."""

import click

from libs.core.api.answers import plain
from libs.core.bot_metrics import EntityMetrics, MetricView
from libs.core.process.service import BOT_RUNNER, BOT_SCHEDULER, ServiceDefinition
from libs.core.sparkline import bars
from libs.core.store.bot_metrics import BotMetricsStore
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.entity_lookup import unknown
from tools.cli.local_time import local
from tools.cli.output import output_option, show, table

_COLUMNS = ("metric", "value", "printed", "last hour", "fields")


def _command(service: ServiceDefinition, printer: str) -> click.Command:
    @click.command("metrics")
    @click.argument("entity_id", metavar="ID")
    @output_option
    def metrics(entity_id: str, output: str) -> None:
        _print(service, entity_id, output)

    metrics.help = (
        f"Show the metrics that {printer} printed: latest values and the last hour.\n\n"
        "A metric is a line of output that is a JSON object with the field `_metric`. Exit code 4 when there is no "
        f"such {service.noun}."
    )
    return metrics


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
            raise unknown(service, entity_id)
        return found


def _cells(metric: MetricView) -> tuple[object, ...]:
    return (
        metric.name,
        f"{metric.value:,.10g}" if metric.value is not None else None,
        local(metric.at),
        bars(metric),
        ", ".join(f"{name}: {text}" for name, text in metric.texts.items()),
    )


bot_metrics = _command(BOT_RUNNER, "a bot has")
schedule_metrics = _command(BOT_SCHEDULER, "a schedule's runs have")
