"""`runtime worker cordon` and `uncordon`: assign no new segments to workers, and undo that."""

from collections.abc import Sequence
from typing import Any

import click

from libs.core.events.wakeups import WakeUps
from libs.core.process.service import ServiceDefinition
from libs.core.store.cordons import CordonStore
from tools.cli import interrupts
from tools.cli.connections import Connections, connected
from tools.cli.known_workers import ids_argument, known_workers, service_option, services_of
from tools.cli.output import cell, output_option, show

reason_option = click.option("--reason", default="", help="The reason, shown to others.")


@click.command()
@ids_argument
@service_option
@reason_option
@output_option
def cordon(worker_ids: tuple[str, ...], service: str | None, reason: str, output: str) -> None:
    """Assign no new segments to workers; they keep what they own.

    A running drain is ended: segments that have not moved yet stay. Exit code 4 when there is no such worker.
    """
    data = interrupts.run(_cordon(worker_ids, services_of(service), reason))
    lines = [f"{cell(one['worker'])} ({one['service']}) is cordoned and keeps what it owns." for one in data]
    show(output, data, lambda: click.echo("\n".join(lines)))


@click.command()
@ids_argument
@service_option
@output_option
def uncordon(worker_ids: tuple[str, ...], service: str | None, output: str) -> None:
    """Undo a cordon or a drain. Exit code 4 when there is no such worker."""
    data = interrupts.run(_uncordon(worker_ids, services_of(service)))
    lines = [
        f"{cell(one['worker'])} ({one['service']}) "
        + ("receives segments again." if one["was_cordoned"] else "was not cordoned.")
        for one in data
    ]
    show(output, data, lambda: click.echo("\n".join(lines)))


async def wake_masters(servers: Connections, service: ServiceDefinition) -> None:
    """Wake the masters, so that they read the cordons at once, if there is NATS."""
    await WakeUps(await servers.nats_if_up(), service.name).partitions_changed()


async def _cordon(
    worker_ids: Sequence[str], services: Sequence[ServiceDefinition], reason: str
) -> list[dict[str, Any]]:
    async with connected() as servers:
        made = []
        for worker in await known_workers(servers, services, worker_ids):
            cordons = CordonStore(await servers.database(worker.service))
            wish = await cordons.cordon(worker.worker_id, reason=reason)
            await wake_masters(servers, worker.service)
            made.append(
                {
                    "service": worker.service.name,
                    "worker": worker.worker_id,
                    "cordoned": True,
                    "since": wish.since,
                    "reason": reason,
                }
            )
        return made


async def _uncordon(worker_ids: Sequence[str], services: Sequence[ServiceDefinition]) -> list[dict[str, Any]]:
    async with connected() as servers:
        done = []
        for worker in await known_workers(servers, services, worker_ids):
            cordons = CordonStore(await servers.database(worker.service))
            was_cordoned = await cordons.uncordon(worker.worker_id)
            await wake_masters(servers, worker.service)
            done.append({"service": worker.service.name, "worker": worker.worker_id, "was_cordoned": was_cordoned})
        return done
