"""`runtime dlq`: events that could not be applied."""

import json
from typing import Any

import click

from libs.core.events.dead_letters import DeadLetter, DeadLetterMissing, DeadLetters
from libs.core.process.service import SERVICES
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import output_option, show, table

service_option = click.option(
    "--service", type=click.Choice([service.name for service in SERVICES]), help="Only dead letters of this service."
)


@click.group()
def dlq() -> None:
    """Events that could not be applied: permanently invalid ones, and those that failed too often.

    Each is kept for 90 days with the reason, and can be replayed after the cause is fixed.
    """


@dlq.command()
@service_option
@output_option
def ls(service: str | None, output: str) -> None:
    """List them, oldest first."""
    letters = interrupts.run(_list(service))
    rows = [
        (letter.number, letter.failed_at, letter.service, letter.subject, letter.entity_id, letter.reason)
        for letter in letters
    ]
    columns = ("number", "failed at", "service", "subject", "id", "reason")
    least = ("service", "failed at", "subject")
    show(
        output,
        [_described(x) for x in letters],
        lambda: table(columns, rows, empty="There are no dead letters.", least=least),
    )


@dlq.command("show")
@click.argument("number", type=int)
@output_option
def show_one(number: int, output: str) -> None:
    """Show one dead letter with its payload and headers."""
    letter = _described(interrupts.run(_show(number)))
    show(output, letter, lambda: click.echo(json.dumps(letter, indent=2, default=str, ensure_ascii=False)))


@dlq.command()
@click.argument("numbers", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All dead letters, or all of --service.")
@service_option
@output_option
def replay(numbers: tuple[int, ...], everything: bool, service: str | None, output: str) -> None:
    """Publish dead letters again, unchanged, and remove them from the list."""
    if bool(numbers) == everything:
        raise click.UsageError("give either numbers or --all")
    done = interrupts.run(_replay(numbers, service))
    show(output, {"replayed": done}, lambda: click.echo(f"{len(done)} published again."))


@dlq.command()
@click.argument("number", type=int, required=False)
@service_option
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@output_option
def purge(number: int | None, service: str | None, yes: bool, output: str) -> None:
    """Remove one dead letter, those of a service, or all."""
    if number is None and not yes:
        click.confirm(f"Remove all dead letters{f' of {service}' if service else ''}?", abort=True, err=True)
    count = interrupts.run(_purge(service, number))
    show(output, {"purged": count}, lambda: click.echo(f"{count} removed."))


async def _list(service: str | None) -> list[DeadLetter]:
    async with connected() as servers:
        return await DeadLetters(await servers.jetstream()).list(service)


async def _show(number: int) -> DeadLetter:
    async with connected() as servers:
        try:
            return await DeadLetters(await servers.jetstream()).show(number)
        except DeadLetterMissing as error:
            raise Failure(str(error), ExitCode.NOT_FOUND) from error


async def _replay(numbers: tuple[int, ...], service: str | None) -> list[int]:
    async with connected() as servers:
        letters = DeadLetters(await servers.jetstream())
        done = []
        for number in numbers or [letter.number for letter in await letters.list(service)]:
            try:
                await letters.replay(number)
            except DeadLetterMissing as error:
                raise Failure(str(error), ExitCode.NOT_FOUND) from error
            done.append(number)
        return done


async def _purge(service: str | None, number: int | None) -> int:
    async with connected() as servers:
        try:
            return await DeadLetters(await servers.jetstream()).purge(service, number)
        except DeadLetterMissing as error:
            raise Failure(str(error), ExitCode.NOT_FOUND) from error


def _described(letter: DeadLetter) -> dict[str, Any]:
    return {
        "number": letter.number,
        "service": letter.service,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "subject": letter.subject,
        "id": letter.entity_id,
        "published_at": letter.published_at,
        "failed_at": letter.failed_at,
        "headers": dict(letter.headers),
        "payload": letter.data.decode(errors="replace"),
    }
