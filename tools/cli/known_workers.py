"""The known workers, and their names in the `worker` commands."""

from collections.abc import Sequence
from dataclasses import dataclass

import click

from libs.core.process.service import SERVICES, ServiceDefinition
from libs.core.store.cordons import CordonStore
from libs.core.store.processes import ProcessStore
from tools.cli.connections import Connections
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.leader import leader_of

ids_argument = click.argument("worker_ids", metavar="ID...", nargs=-1, required=True)
service_option = click.option(
    "--service", type=click.Choice([service.name for service in SERVICES]), help="Only workers of this service."
)


@dataclass(frozen=True)
class KnownWorker:
    """One worker of one service."""

    service: ServiceDefinition
    worker_id: str

    def __str__(self) -> str:
        return f"{self.worker_id} ({self.service.name})"


def services_of(name: str | None) -> list[ServiceDefinition]:
    """Return the services selected by `--service`."""
    return [service for service in SERVICES if name in (None, service.name)]


async def known_workers(
    servers: Connections, services: Sequence[ServiceDefinition], worker_ids: Sequence[str]
) -> list[KnownWorker]:
    """Return the workers with these ids.

    Raises:
        Failure: one of the ids is unknown in all of *services*; nothing was changed.
    """
    found: list[KnownWorker] = []
    for service in services:
        known = await _ids(servers, service)
        processes = ProcessStore(await servers.database(service))
        found += [
            KnownWorker(service, worker_id)
            for worker_id in dict.fromkeys(worker_ids)
            if worker_id in known or await processes.find("worker", worker_id) is not None
        ]
    unknown = [repr(one) for one in worker_ids if one not in {worker.worker_id for worker in found}]
    if unknown:
        where = services[0].name if len(services) == 1 else "any service"
        raise Failure(
            f"there is no worker {', '.join(unknown)} in {where}; `runtime worker ls` lists all workers. "
            "Nothing was changed",
            ExitCode.NOT_FOUND,
        )
    return found


async def _ids(servers: Connections, service: ServiceDefinition) -> set[str]:
    """Return the workers with a lease or a cordon, or connected to a reachable leader."""
    leases = await (await servers.leases(service)).live()
    cordons = await CordonStore(await servers.database(service)).current()
    connected = await (await leader_of(servers, service)).workers() or []
    return {lease.holder.worker_id for lease in leases} | set(cordons) | {one["worker_id"] for one in connected}
