"""`runtime status`: who runs what, as MongoDB tells it."""

from collections import Counter
from typing import Any

import click

from libs.core.service import SERVICES, ServiceDefinition
from libs.core.store.client import translated
from libs.core.store.entities import Entity
from libs.core.store.leases import LeaseStore
from tools.cli import interrupts
from tools.cli.connections import Connections, connected
from tools.cli.output import output_option, show, table

_LEASE_SECONDS = 5.0


@click.command()
@output_option
def status(output: str) -> None:
    """Show each service: who leads, which worker owns which segment, which segments wait, how its entities are."""
    services = interrupts.run(_status())
    show(output, services, lambda: _print(services))


async def _status() -> list[dict[str, Any]]:
    async with connected() as servers:
        return [await _service(servers, service) for service in SERVICES]


async def _service(servers: Connections, service: ServiceDefinition) -> dict[str, Any]:
    database = await servers.database(service)
    segments = await LeaseStore(database, _LEASE_SECONDS, timeout_seconds=10).survey()
    with translated():
        leader = await database["leadership"].find_one(
            {"_id": "master", "$expr": {"$gt": ["$lease.expires_at", "$$NOW"]}}
        )
    entities = await servers.entities(service)
    states: Counter[str] = Counter()
    after = ""
    while page := await entities.page(after_id=after):
        after = page[-1].id
        states.update(_state(entity) for entity in page)
    return {
        "service": service.name,
        "leader": leader["lease"]["worker_id"] if leader else None,
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
        "entities": dict(states),
    }


def _state(entity: Entity) -> str:
    return str(entity.status.get("state") or ("waiting" if entity.should_run else "off"))


def _print(services: list[dict[str, Any]]) -> None:
    for service in services:
        entities = ", ".join(f"{count} {state}" for state, count in sorted(service["entities"].items())) or "none"
        click.secho(service["service"], bold=True)
        click.echo(f"  leader: {service['leader'] or 'nobody leads'}; entities: {entities}")
        if service["waiting"]:
            click.echo(f"  segments that wait for a worker: {', '.join(map(str, service['waiting']))}")
        rows = [
            [f"  {s['segment']}", s["entities"], s["worker"] or "waiting", s["host"], s["epoch"]]
            for s in service["segments"]
        ]
        table(("  segment", "entities", "worker", "host", "epoch"), rows, empty="  no segments")
        click.echo()
