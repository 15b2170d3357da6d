"""`runtime audit`: who deployed, changed, killed or read what."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from libs.core.process.service import ServiceDefinition
from libs.core.store.audit import Action, AuditFilter, AuditStore
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.known_workers import service_option, services_of
from tools.cli.output import output_option, show, table

_COLUMNS = ("at", "action", "who", "way", "target", "service", "detail")


@click.command()
@click.option("--id", "target", help="Only entries about this bot, backtest or schedule.")
@click.option("--who", help="Only entries of this user or owner.")
@click.option("--action", type=click.Choice([str(action) for action in Action]), help="Only entries of this action.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Number of entries.")
@service_option
@output_option
def audit(
    target: str | None, who: str | None, action: str | None, limit: int, service: str | None, output: str
) -> None:
    """Show who deployed, changed, killed or stopped bots, backtests and schedules, or read their output.

    The latest entries come first. Entries are kept for AUDIT_DAYS. An empty name means that it is unknown.
    """
    wanted = AuditFilter(target, who, Action(action) if action else None)
    found = interrupts.run(_audit(services_of(service), wanted, limit))
    show(output, found, lambda: table(_COLUMNS, [_cells(row) for row in found], empty="No entries.", least=("detail",)))


async def _audit(services: Sequence[ServiceDefinition], wanted: AuditFilter, limit: int) -> list[dict[str, Any]]:
    async with connected() as servers:
        rows = [
            {**asdict(entry), "service": service.name}
            for service in services
            for entry in await AuditStore(await servers.database(service)).list(wanted, limit=limit)
        ]
        return sorted(rows, key=lambda row: row["at"], reverse=True)[:limit]


def _cells(row: dict[str, Any]) -> Sequence[object]:
    return [f"{row['at']:%Y-%m-%d %H:%M:%S}", *(row[column] for column in _COLUMNS[1:])]
