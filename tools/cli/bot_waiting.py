"""What the commands that `deploy` and `rm` have in common: waiting for the workers, or not."""

from collections.abc import Awaitable
from typing import TypeVar

import click

from libs.core.service import ServiceDefinition
from tools.bots.outcome import NotInTime
from tools.bots.removal import Removal
from tools.cli.connections import Connections
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure

T = TypeVar("T")

WAIT_SECONDS = 60.0

wait_option = click.option("--no-wait", is_flag=True, help="Return as soon as it is announced.")


async def in_time(waiting: Awaitable[T]) -> T:
    """What *waiting* gives. Raises Failure with its own exit code when it did not come about in time."""
    try:
        return await waiting
    except NotInTime as error:
        raise Failure(str(error), ExitCode.TIMEOUT) from error


async def until_gone(servers: Connections, service: ServiceDefinition, entity_id: str) -> None:
    """Wait until a removed entity has left the machines too. Raises Failure when it does not in time."""
    removal = Removal(
        service,
        await servers.entities(service),
        await servers.database(service),
        await servers.leases(service),
    )
    await in_time(removal.until_gone(entity_id, WAIT_SECONDS))
