"""The state of the services: from MongoDB, and from the leading masters."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from libs.core.api.answers import FAILURES, run_view
from libs.core.process.service import SERVICES, ServiceDefinition
from libs.core.store.entity_views import EntityViews
from libs.core.store.leases import LeaseStore
from libs.core.store.runs import RunFilter, RunStore
from tools.cli.connections import Connections
from tools.cli.leader import hindrance, leader_of
from tools.cli.local_time import local
from tools.cli.output import cell, table

_LEASE_SECONDS = 5.0
_FAILURES = 5
_FAILURES_OF = timedelta(days=1)


async def report(servers: Connections) -> list[dict[str, Any]]:
    """Return each service: leader, workers, segments, entities by state, and failures of the last day."""
    return [await _service(servers, service) for service in SERVICES]


def print_report(services: Sequence[Mapping[str, Any]]) -> None:
    """Print it as text."""
    for service in services:
        _print(service)


async def _service(servers: Connections, service: ServiceDefinition) -> dict[str, Any]:
    database = await servers.database(service)
    segments = await LeaseStore(database, _LEASE_SECONDS, timeout_seconds=10).survey()
    leader = await leader_of(servers, service)
    failed = RunFilter(reasons=FAILURES, started_after=datetime.now(UTC) - _FAILURES_OF)
    failures = [run_view(run) for run in await RunStore(database).list(failed, limit=_FAILURES)]
    return {
        "service": service.name,
        "noun": service.noun,
        "leader": leader.name,
        "status_page": leader.urls[0] if leader.urls else None,
        "workers": await leader.workers(),
        "segments": [
            {
                "segment": segment.segment_id,
                "entities": segment.bot_count,
                "worker": segment.lease.holder.worker_id if segment.lease else None,
                "host": segment.lease.holder.host if segment.lease else None,
                "epoch": segment.lease.epoch if segment.lease else None,
            }
            for segment in segments
        ],
        "waiting": [segment.segment_id for segment in segments if segment.lease is None],
        "entities": await EntityViews(database, service.collection).counts(),
        "failures": [
            {
                "id": run.entity_id,
                "reason": run.reason,
                "ended_at": run.ended_at,
                "exit_code": run.exit_code,
                "message": run.message,
                "failure": run.failure,
                "error_type": run.error_type,
                "error_message": run.error_message,
                "hint": run.hint,
                "last_line": run.last_lines[-1] if run.last_lines else "",
            }
            for run in failures
        ],
    }


def _print(service: Mapping[str, Any]) -> None:
    click.secho(service["service"], bold=True)
    click.echo(f"  leader: {cell(service['leader'] or 'none')}", nl=False)
    click.echo(f"; status page: {service['status_page']}" if service["status_page"] else "")
    entities = ", ".join(f"{count} {cell(state)}" for state, count in sorted(service["entities"].items()))
    click.echo(f"  {service['noun']}s: {entities or 'none'}")
    if service["waiting"]:
        click.echo(f"  segments waiting for a worker: {', '.join(map(str, service['waiting']))}")
    known = service["workers"]
    if known is None and service["leader"]:
        click.echo("  workers: unknown, the leading master is not reachable from here")
    elif known is not None:
        columns = ("  worker", "role", "segments", "containers", "host", "hindered by")
        rows = [
            (
                f"  {cell(w['worker_id'])}",
                w["role"],
                ", ".join(map(str, w["held"])) or None,
                w["running"],
                w["hostname"],
                hindrance(w),
            )
            for w in sorted(known, key=lambda worker: str(worker["worker_id"]))
        ]
        table(columns, rows, empty="  no workers")
    if service["segments"]:
        segments = [
            (f"  {s['segment']}", s["entities"], s["worker"] or "waiting", s["epoch"]) for s in service["segments"]
        ]
        table(("  segment", f"{service['noun']}s", "worker", "epoch"), segments, empty="")
    if service["failures"]:
        failures = [
            (f"  {cell(f['id'])}", f["reason"], local(f["ended_at"]), f["exit_code"], f["message"] or f["last_line"])
            for f in service["failures"]
        ]
        table(("  recent failures", "reason", "ended", "exit", "message"), failures, empty="")
    click.echo()
