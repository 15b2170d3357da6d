"""The runs in the three services' histories, for the table at the end."""

from dataclasses import dataclass
from datetime import UTC, datetime

from libs.core.process.service import SERVICES, ServiceDefinition
from libs.core.run_record import RunRecord
from libs.core.store.runs import RunStore
from tools.cli.connections import Connections

_MOST_RUNS = 1000


@dataclass(frozen=True)
class RunRow:
    """One run. *outcome* is `running`, or the reason of its end."""

    service: str
    id: str
    worker: str
    segment: int
    container: str
    seconds: float
    outcome: str


async def run_rows(servers: Connections) -> list[RunRow]:
    """Return all runs so far that had a container, by service, entity and time."""
    rows = []
    for service in SERVICES:
        runs = await RunStore(await servers.database(service)).list(limit=_MOST_RUNS)
        ran = sorted((run for run in runs if run.container_id), key=lambda run: (run.entity_id, run.started_at))
        rows += [_row(service, run, run.container_id or "") for run in ran]
    return rows


def _row(service: ServiceDefinition, run: RunRecord, container: str) -> RunRow:
    return RunRow(
        service=service.name,
        id=run.entity_id,
        worker=run.worker_id.removeprefix(f"{service.name}-"),
        segment=run.segment_id,
        container=container[:12],
        seconds=((run.ended_at or datetime.now(UTC)) - run.started_at).total_seconds(),
        outcome="running" if run.ended_at is None else run.reason or "ended",
    )
