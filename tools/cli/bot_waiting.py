"""The waiting for workers that `deploy` and `rm` share."""

from collections.abc import Awaitable, Sequence
from typing import TypeVar

import click

from libs.core.process.service import ServiceDefinition
from tools.bots.outcome import NotInTime
from tools.bots.removal import Leftover, Removal
from tools.cli.connections import Connections
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import cell, show

T = TypeVar("T")

WAIT_SECONDS = 60.0

wait_option = click.option("--no-wait", is_flag=True, help="Return as soon as the event is published.")


async def in_time(waiting: Awaitable[T]) -> T:
    """Return the result of *waiting*. Raises Failure with a separate exit code on a timeout."""
    try:
        return await waiting
    except NotInTime as error:
        raise Failure(str(error), ExitCode.TIMEOUT) from error


async def until_gone(servers: Connections, service: ServiceDefinition, entity_id: str) -> Sequence[Leftover]:
    """Wait until a removed entity has no containers, and return what lost workers left of it.

    Raises:
        Failure: it timed out.
    """
    removal = Removal(
        service,
        await servers.entities(service),
        await servers.database(service),
        await servers.leases(service),
    )
    return await in_time(removal.until_gone(entity_id, WAIT_SECONDS))


def show_removed(entity_id: str, left: Sequence[Leftover], output: str) -> None:
    """Print that an entity is removed, and what the next worker of a lost one's host will clean up."""
    lines = [f"{cell(entity_id)} is removed."]
    if left:
        lines.append("Its worker was lost; none of its containers run. The next worker of that host removes:")
        lines += [f"  {cell(leftover)}" for leftover in left]
    data = {"id": entity_id, "removed": True} | ({"left": left} if left else {})
    show(output, data, lambda: click.echo("\n".join(lines)))
