"""`runtime gc --dry-run`: the data that the leading masters would remove now."""

from typing import Any

import click

from libs.collector.collector import Garbage
from libs.collector.collector import collect as collect_kind
from libs.collector.sweep import Sweep
from libs.collector.wiring import in_documents, in_storage, old_logs
from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, SERVICES, ServiceDefinition
from libs.core.store.client import Database
from services.backtest_runner.old_results import old_results
from tools.cli import interrupts
from tools.cli.connections import Connections, connected
from tools.cli.output import output_option, show
from tools.cli.tables import table

_COLUMNS = ("kind", "service", "count", "bytes")


@click.command()
@click.option("--dry-run", is_flag=True, help="Required: list only. The masters do the removal.")
@output_option
def collect(dry_run: bool, output: str) -> None:
    """Count what the leading masters would remove now, by the retention settings of this environment.

    Logs and results belong to all services that write them, and are counted once.
    """
    if not dry_run:
        raise click.UsageError("give --dry-run: only the leading masters remove expired data")
    rows = interrupts.run(_rows())
    cells = [[row[column] for column in _COLUMNS] for row in rows]
    show(output, rows, lambda: table(_COLUMNS, cells, empty="Nothing to remove."))


async def _rows() -> list[dict[str, Any]]:
    async with connected() as servers:
        return [await _row(name, garbage) for name, garbage in await _kinds(servers)]


async def _row(service: str, garbage: Garbage) -> dict[str, Any]:
    sweep = Sweep(garbage.kind, dry_run=True)
    await collect_kind(garbage, sweep)
    return {"kind": garbage.kind, "service": service, "count": sweep.count, "bytes": sweep.size}


async def _kinds(servers: Connections) -> list[tuple[str, Garbage]]:
    """Return each kind with the service whose master collects it."""
    storage, retention = servers.storage_settings(), servers.retention_settings()
    store = servers.storage()
    opened = {service.name: await servers.database(service) for service in SERVICES}

    def databases(service: ServiceDefinition) -> Database:
        return opened[service.name]

    found: list[tuple[str, Garbage]] = []
    for service in SERVICES:
        found += [(service.name, garbage) for garbage in in_storage(service, databases, store, storage, retention)]
        found += [(service.name, garbage) for garbage in in_documents(service, databases, retention)]
    found += [(BOT_RUNNER.name, garbage) for garbage in old_logs(store, storage, retention)]
    found += [(BACKTEST_RUNNER.name, garbage) for garbage in old_results(store, storage, retention)]
    return found
