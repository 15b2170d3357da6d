"""`runtime backtest ls`: waiting, running and completed backtests."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

import click

from libs.core.process.service import BACKTEST_RUNNER
from libs.core.run_record import RunRecord
from libs.core.store.entities import Entity
from libs.core.store.ownership import Ownership
from libs.core.store.runs import RunFilter, RunStore
from tools.backtests.columns import ordered, similar, value_in
from tools.backtests.findings import findings
from tools.backtests.results import known_of, state_of
from tools.cli import interrupts
from tools.cli.connections import Connections, connected
from tools.cli.entity_states import with_reason
from tools.cli.output import cell, output_option, show, table
from tools.cli.tables import value_text

_COLUMNS = ("id", "state", "attempt", "worker", "since", "seconds", "detail")
_PARALLEL = 4
_LEAST = ("attempt", "seconds", "worker", "since")


@click.command()
@click.option(
    "-n", "--done", default=20, show_default=True, type=click.IntRange(0), help="Number of completed backtests to list."
)
@click.option(
    "--columns",
    metavar="NAME,NAME",
    help="Show these instead: metrics of the result, values of the config, or usual ones.",
)
@click.option("--sort", metavar="NAME", help="Sort by this metric, value or column, the highest first.")
@click.option("--lowest-first", is_flag=True, help="Sort the lowest first.")
@output_option
def ls(done: int, columns: str | None, sort: str | None, lowest_first: bool, output: str) -> None:
    """List the waiting and running backtests, then the latest completed ones.

    With --columns or --sort, the results of the listed ones are read.
    """
    wanted = _names(columns)
    if sort is not None and wanted and sort not in wanted:
        wanted.append(sort)
    found, known = interrupts.run(_ls(done, [*wanted, *([sort] if sort is not None else [])]))
    if sort is not None:
        found = ordered(found, [row["columns"][sort] for row in found], lowest_first=lowest_first)
    _warn_of_missing(found, known)
    if wanted:
        names = ("id", "state", *(name for name in wanted if name not in ("id", "state")))
        rows = [[_value(with_reason(row), name) for name in names] for row in found]
    else:
        names = (*_COLUMNS[:2], *([sort] if sort is not None and sort not in _COLUMNS else []), *_COLUMNS[2:])
        rows = [[_value(with_reason(row), name) for name in names] for row in found]
    show(output, found, lambda: table(names, rows, empty="There are no backtests.", least=_LEAST))


def _names(columns: str | None) -> list[str]:
    names = [name.strip() for name in columns.split(",")] if columns is not None else []
    if not all(names):
        raise click.BadParameter("write names with commas between, such as sharpe,return", param_hint="--columns")
    return list(dict.fromkeys(names))


def _value(row: dict[str, Any], name: str) -> object:
    if name in _COLUMNS:
        return row[name]
    value = row["columns"].get(name)
    return None if value is None else value_text(value)


def _warn_of_missing(found: list[dict[str, Any]], known: Collection[str]) -> None:
    for name in found[0].get("columns", ()) if found else ():
        if all(row["columns"][name] is None for row in found):
            like = similar(name, known)
            hint = f"; similar: {', '.join(map(cell, like))}" if like else ""
            click.echo(f"warning: no listed backtest has {cell(name)} in its metrics or its config{hint}", err=True)


async def _ls(done: int, names: Sequence[str]) -> tuple[list[dict[str, Any]], set[str]]:
    """Return the backtests, with the values of *names*, and the names of all their metrics and values."""
    async with connected() as servers:
        rows = await _rows(servers, done)
        known: set[str] = set()
        if names:
            reading = asyncio.Semaphore(_PARALLEL)
            known.update(*await asyncio.gather(*(_add_columns(servers, row, names, reading) for row in rows)))
        return rows, known


async def _add_columns(
    servers: Connections, row: dict[str, Any], names: Sequence[str], reading: asyncio.Semaphore
) -> set[str]:
    async with reading:
        known = await known_of(servers, row["id"])
    has_result = known is not None and known.analysis is not None and known.failure is None
    metrics = findings(known.analysis).metrics if has_result and known is not None and known.analysis else {}
    config = known.parameters.flat() if known is not None and known.parameters is not None else {}
    row["columns"] = {name: value_in(name, {c: row[c] for c in _COLUMNS}, metrics, config) for name in names}
    return {*metrics, *config}


async def _rows(servers: Connections, done: int) -> list[dict[str, Any]]:
    entities = await servers.entities(BACKTEST_RUNNER)
    under_way = [entity async for entity in entities.all()]
    owners = await (await servers.owners(BACKTEST_RUNNER)).all()
    runs = RunStore(await servers.database(BACKTEST_RUNNER))
    # The history also contains attempts that were retried.
    ended = await runs.list(RunFilter(open=False), limit=4 * done) if done else []
    open_ids = {entity.id for entity in under_way}
    latest = {run.entity_id: run for run in reversed(ended) if run.entity_id not in open_ids}
    newest_first = sorted(latest.values(), key=lambda run: run.started_at, reverse=True)
    return [_open(entity, owners.get(entity.segment_id)) for entity in under_way] + [
        _done(run) for run in newest_first[:done]
    ]


def _open(entity: Entity, owner: Ownership | None) -> dict[str, Any]:
    status, now = entity.status, state_of(entity, owner)
    return {
        "id": entity.id,
        "state": now.state,
        "state_reason": now.why,
        "attempt": status.get("attempt"),
        "worker": status.get("worker"),
        "since": status.get("since"),
        "seconds": None,
        "detail": status.get("detail", ""),
    }


def _done(run: RunRecord) -> dict[str, Any]:
    return {
        "id": run.entity_id,
        "state": "finished" if run.reason == "finished" else "failed",
        "state_reason": "",
        "attempt": run.attempt,
        "worker": run.worker_id,
        "since": run.ended_at,
        "seconds": run.duration_seconds,
        "detail": run.message or "",
    }
