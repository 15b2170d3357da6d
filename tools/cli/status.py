"""`runtime status`: the state of all services."""

from typing import Any

import click

from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.output import output_option, show
from tools.cli.status_report import print_report, report


@click.command()
@output_option
def status(output: str) -> None:
    """Show each service: leader, workers, segments, states of entities, recent failures.

    The status page of the leading master shows the same in a browser.
    """
    services = interrupts.run(_status())
    show(output, services, lambda: print_report(services))


async def _status() -> list[dict[str, Any]]:
    async with connected() as servers:
        return await report(servers)
