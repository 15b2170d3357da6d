"""`runtime backtest ls`: waiting, running and completed backtests."""

from typing import Any

import click

from libs.core.process.service import BACKTEST_RUNNER
from libs.core.run_record import RunRecord
from libs.core.store.entities import Entity
from libs.core.store.ownership import Ownership
from libs.core.store.runs import RunFilter, RunStore
from tools.backtests.results import state_of
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.entity_states import with_reason
from tools.cli.output import output_option, show, table

_COLUMNS = ("id", "state", "attempt", "worker", "since", "seconds", "detail")
_LEAST = ("attempt", "seconds", "worker", "since")


@click.command()
@click.option(
    "-n", "--done", default=20, show_default=True, type=click.IntRange(0), help="Number of completed backtests to list."
)
@output_option
def ls(done: int, output: str) -> None:
    """List the waiting and running backtests, then the latest completed ones."""
    found = interrupts.run(_ls(done))
    rows = [[with_reason(row)[column] for column in _COLUMNS] for row in found]
    show(output, found, lambda: table(_COLUMNS, rows, empty="There are no backtests.", least=_LEAST))


async def _ls(done: int) -> list[dict[str, Any]]:
    async with connected() as servers:
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
