"""`runtime worker ls`: the workers with their segments and states."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from libs.core.process.service import ServiceDefinition
from libs.core.room import MIB
from libs.core.store.cordons import CordonStore
from libs.core.store.leases import LeaseStore
from libs.core.store.processes import ProcessStore
from tools.cli import interrupts
from tools.cli.connections import Connections, connected
from tools.cli.known_workers import service_option, services_of
from tools.cli.leader import hindrance, leader_of
from tools.cli.output import output_option, show, table

_COLUMNS = ("id", "service", "state", "segments", "containers", "room", "host", "version", "detail")
_LEAST = ("version", "host", "room", "containers", "service")
_MOST = 1000


@click.command()
@service_option
@output_option
def ls(service: str | None, output: str) -> None:
    """List the workers with their segments.

    States: `owning`, `standby`, `cordoned` (receives no new segments), `draining` (shutting down), `gone`
    (not connected).
    """
    found = interrupts.run(_ls(services_of(service)))
    show(output, found, lambda: table(_COLUMNS, [_cells(row) for row in found], empty="No workers.", least=_LEAST))


async def _ls(services: Sequence[ServiceDefinition]) -> list[dict[str, Any]]:
    async with connected() as servers:
        return [row for service in services for row in await _of(servers, service)]


async def _of(servers: Connections, service: ServiceDefinition) -> list[dict[str, Any]]:
    database = await servers.database(service)
    cordons = await CordonStore(database).current()
    known = await (await leader_of(servers, service)).workers()
    if known is None:
        rows = await _as_mongodb_knows(await servers.leases(service), ProcessStore(database))
    else:
        rows = {str(one["worker_id"]): _row(one) for one in known}
    for worker_id, cordon in cordons.items():
        row = rows.setdefault(worker_id, {"state": "gone"})
        # The leader's answer may be older than the cordon.
        row |= {"cordoned": True, "drained": cordon.drain, "cordon_reason": cordon.reason, "stays": cordon.stays}
        row["state"] = "cordoned" if row["state"] in ("owning", "standby", None) else row["state"]
    empty = dict.fromkeys(("state", "segments", "containers", "room", "host", "version", "impediment", "refused"))
    no_cordon = {"cordoned": False, "drained": False, "cordon_reason": "", "stays": {}}
    return [
        {"id": worker_id, "service": service.name, **empty, **no_cordon, **rows[worker_id]}
        for worker_id in sorted(rows)
    ]


def _row(worker: Mapping[str, Any]) -> dict[str, Any]:
    room = worker.get("room")
    return {
        "state": worker["role"],
        "segments": worker["held"],
        "containers": worker["running"],
        "room": room["free"] if room is not None else None,
        "host": worker["hostname"],
        "version": worker["version"],
        "impediment": worker["impediment"],
        "refused": worker["refused"],
    }


async def _as_mongodb_knows(leases: LeaseStore, processes: ProcessStore) -> dict[str, dict[str, Any]]:
    """Return the workers without the leader: those that hold a lease, and recently registered ones."""
    rows: dict[str, dict[str, Any]] = {}
    for process in await processes.some("worker", _MOST):
        rows[process.name] = {"state": None, "segments": [], "host": process.hostname}
    for lease in await leases.live():
        row = rows.setdefault(lease.holder.worker_id, {"segments": []})
        row["state"] = "owning"
        row["segments"].append(lease.segment_id)
    return rows


def _cells(row: Mapping[str, Any]) -> list[object]:
    room = row["room"]
    stays = "; ".join(f"segment {segment_id} stays: {why}" for segment_id, why in row["stays"].items())
    return [
        row["id"],
        row["service"],
        row["state"] or "unknown",
        ", ".join(map(str, row["segments"] or ())) or None,
        row["containers"],
        f"{max(0, room['memory_bytes']) // MIB} MiB" if room is not None else None,
        row["host"],
        row["version"],
        "; ".join(part for part in (hindrance(row), stays) if part) or None,
    ]
