"""`runtime status`: who runs what."""

from typing import Any

import click

from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.output import output_option, show
from tools.cli.status_report import print_report, report


@click.command()
@output_option
def status(output: str) -> None:
    """Show each service: who leads, its workers and segments, how its entities are, what failed of late.

    The same in a browser: the status page of the master that leads.
    """
    services = interrupts.run(_status())
    show(output, services, lambda: print_report(services))


async def _status() -> list[dict[str, Any]]:
    async with connected() as servers:
        return await report(servers)
