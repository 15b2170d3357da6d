"""`runtime bot kill` and `resume`: the kill switch."""

import asyncio
from datetime import datetime
from typing import Any

import click

from libs.core.events.wakeups import WakeUps
from libs.core.service import BOT_RUNNER
from libs.core.store.entities import Entity
from libs.core.store.holds import HoldStore, HoldTarget
from tools.bots.standstill import Standstill
from tools.cli import interrupts
from tools.cli.connections import Connections, connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import output_option, show

_WAIT_SECONDS = 60.0
_LOOK_SECONDS = 0.1

id_argument = click.argument("bot_id", metavar="[ID]", required=False)
selector_option = click.option("--selector", help="All bots with a value in a field: custom.config.author=alice")
all_option = click.option("--all", "everything", is_flag=True, help="All bots, those to come too.")


@click.command()
@id_argument
@selector_option
@all_option
@click.option("--reason", default="", help="Why, for those who wonder later.")
@output_option
def kill(bot_id: str | None, selector: str | None, everything: bool, reason: str, output: str) -> None:
    """Stop bots at once, and keep them stopped whatever events arrive, until `resume`."""
    data = interrupts.run(_kill(_target(bot_id, selector, everything), reason))
    lines = [f"held: {data['held']}", *(_told(name, data) for name in data["down"])]
    show(output, data, lambda: click.echo("\n".join(lines)))


@click.command()
@id_argument
@selector_option
@all_option
@output_option
def resume(bot_id: str | None, selector: str | None, everything: bool, output: str) -> None:
    """Undo exactly one `kill`: the same ID, --selector or --all."""
    data = interrupts.run(_resume(_target(bot_id, selector, everything)))
    show(output, data, lambda: click.echo(f"resumed: {data['resumed']}"))


async def _kill(target: HoldTarget, reason: str) -> dict[str, Any]:
    async with connected() as servers:
        entities = await servers.entities(BOT_RUNNER)
        database = await servers.database(BOT_RUNNER)
        standstill = Standstill(entities, database, await servers.leases(BOT_RUNNER))
        hold = await HoldStore(database).hold(target, by="runtime bot kill", reason=reason)
        affected = await _affected(servers, target)
        await WakeUps(await servers.nats_if_up(), BOT_RUNNER.name).segments_changed({e.segment_id for e in affected})
        down: dict[str, datetime | None] = {}
        deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
        while waiting := [entity.id for entity in affected if entity.id not in down]:
            down |= await standstill.down(waiting, hold.since)
            if asyncio.get_running_loop().time() > deadline:
                names = ", ".join(one for one in waiting if one not in down)
                raise Failure(f"held, but not seen down within {_WAIT_SECONDS:g} s: {names}", ExitCode.TIMEOUT)
            await asyncio.sleep(_LOOK_SECONDS)
        return {"held": str(target), "since": hold.since, "reason": reason, "down": list(down), "down_at": down}


def _told(name: str, data: dict[str, Any]) -> str:
    at: datetime | None = data["down_at"][name]
    if at is None:
        return f"{name} is down, and was before"
    return f"{name} is down since {at:%H:%M:%S.%f} UTC ({(at - data['since']).total_seconds():.2f} s)"


async def _resume(target: HoldTarget) -> dict[str, Any]:
    async with connected() as servers:
        affected = await _affected(servers, target)
        if not await HoldStore(await servers.database(BOT_RUNNER)).resume(target):
            raise Failure(f"there is no hold on {target}", ExitCode.NOT_FOUND)
        await WakeUps(await servers.nats_if_up(), BOT_RUNNER.name).segments_changed({e.segment_id for e in affected})
        return {"resumed": str(target), "bots": [entity.id for entity in affected]}


async def _affected(servers: Connections, target: HoldTarget) -> list[Entity]:
    entities = await servers.entities(BOT_RUNNER)
    if target.kind == "id":
        found = await entities.get(target.value)
        return [found] if found is not None else []
    matching: list[Entity] = []
    after = ""
    while page := await entities.page(after_id=after):
        after = page[-1].id
        matching += [entity for entity in page if target.matches(entity.document)]
    return matching


def _target(bot_id: str | None, selector: str | None, everything: bool) -> HoldTarget:
    if sum((bot_id is not None, selector is not None, everything)) != 1:
        raise click.UsageError("give exactly one of ID, --selector and --all")
    if bot_id is not None:
        return HoldTarget.entity(bot_id)
    return HoldTarget.selector(selector) if selector is not None else HoldTarget.everything()
