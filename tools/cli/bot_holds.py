"""`runtime bot kill`, `resume`, `stop` and `start`: keep bots down, at once or gracefully, and let them run again."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click

from libs.core.events.wakeups import WakeUps
from libs.core.process.service import BOT_RUNNER
from libs.core.store.audit import Action
from libs.core.store.entities import Entity
from libs.core.store.holds import HoldTarget
from tools.bots.standstill import Standstill
from tools.cli import interrupts
from tools.cli.audit_record import record
from tools.cli.bot_waiting import wait_option
from tools.cli.connections import Connections, connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import cell, output_option, show

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Switch:
    """A kind of hold: kill or stop.

    Attributes:
        done: the past participle for messages.
        undo: the name of the command that undoes it.
        wait_seconds: maximum time until a bot is down.
    """

    name: str
    done: str
    undo: str
    graceful: bool
    wait_seconds: float


KILL = Switch("kill", "held", "resume", graceful=False, wait_seconds=60.0)
# A bot has BOT_STOP_SECONDS, 30 by default, to end by itself.
STOP = Switch("stop", "stopped", "start", graceful=True, wait_seconds=120.0)

ids_argument = click.argument("bot_ids", metavar="[ID]...", nargs=-1)
selector_option = click.option("--selector", help="All bots whose field has this value: custom.config.author=alice")
all_option = click.option("--all", "everything", is_flag=True, help="All bots, including future ones.")
future_option = click.option(
    "--future", is_flag=True, help="Accept a target that matches no bot yet; it applies to future bots."
)
reason_option = click.option("--reason", default="", help="The reason, shown to others.")


@click.command()
@ids_argument
@selector_option
@all_option
@future_option
@reason_option
@wait_option
@output_option
def kill(
    bot_ids: tuple[str, ...],
    selector: str | None,
    everything: bool,
    future: bool,
    reason: str,
    no_wait: bool,
    output: str,
) -> None:
    """Kill bots at once, and keep them down, regardless of events, until `resume`.

    The bots get no time for their `finally` blocks, unlike with `runtime bot stop`. Exit code 4 when there is no such
    bot.
    """
    _hold(KILL, _targets(bot_ids, selector, everything), future, reason, not no_wait, output)


@click.command()
@ids_argument
@selector_option
@all_option
@output_option
def resume(bot_ids: tuple[str, ...], selector: str | None, everything: bool, output: str) -> None:
    """Undo exactly one `kill`: the same ID, --selector or --all."""
    _release(KILL, "resumed", _targets(bot_ids, selector, everything), output)


@click.command()
@ids_argument
@selector_option
@all_option
@future_option
@reason_option
@wait_option
@output_option
def stop(
    bot_ids: tuple[str, ...],
    selector: str | None,
    everything: bool,
    future: bool,
    reason: str,
    no_wait: bool,
    output: str,
) -> None:
    """Stop bots gracefully, and keep them stopped, regardless of events, until `start`.

    Each bot gets SIGTERM and time for its `finally` blocks (30 seconds unless BOT_STOP_SECONDS is set).
    Config, state and logs are kept. Returns when the bots are down. Exit code 4 when there is no such bot.
    """
    _hold(STOP, _targets(bot_ids, selector, everything), future, reason, not no_wait, output)


@click.command()
@ids_argument
@selector_option
@all_option
@output_option
def start(bot_ids: tuple[str, ...], selector: str | None, everything: bool, output: str) -> None:
    """Undo exactly one `stop`: the same IDs, --selector or --all."""
    _release(STOP, "started", _targets(bot_ids, selector, everything), output)


def _hold(switch: Switch, targets: Sequence[HoldTarget], future: bool, reason: str, wait: bool, output: str) -> None:
    data = interrupts.run(_keep_down(switch, targets, future, reason, wait))
    lines = [f"{switch.done}: {cell(data['held'])}", *(_down_text(name, data) for name in data["down"])]
    lines += [f"{cell(name)} is stopping" for name in data["bots"] if name not in data["down"]]
    show(output, data, lambda: click.echo("\n".join(lines)))


def _release(switch: Switch, done: str, targets: Sequence[HoldTarget], output: str) -> None:
    data = interrupts.run(_let_run(switch, done, targets))
    lines = [f"{done}: {cell(data[done])}"]
    lines += [f"{cell(name)} stays down: {cell(why)}" for name, why in data["still_held"].items()]
    show(output, data, lambda: click.echo("\n".join(lines)))


async def _keep_down(
    switch: Switch, targets: Sequence[HoldTarget], future: bool, reason: str, wait: bool
) -> dict[str, Any]:
    async with connected() as servers:
        entities = await servers.entities(BOT_RUNNER)
        standstill = Standstill(entities, await servers.database(BOT_RUNNER), await servers.leases(BOT_RUNNER))
        # "all" cannot be mistyped, and reading all bots twice would only delay their end.
        affected = [] if targets[0].kind == "all" else await _affected(servers, targets)
        unmatched = [target for target in targets if not any(target.matches(e.document) for e in affected)]
        if unmatched and not future and targets[0].kind != "all":
            raise Failure(_no_such(switch, unmatched), ExitCode.NOT_FOUND)
        by = f"runtime bot {switch.name}"
        holds = [await entities.holds.hold(target, by, reason, graceful=switch.graceful) for target in targets]
        done = Action.STOPPED if switch.graceful else Action.KILLED
        await record(servers, done, _recorded(targets), reason)
        since = min(hold.since for hold in holds)
        await _wake(servers, affected)
        # Again: a bot may have been created before the hold was stored.
        affected = await _affected(servers, targets)
        await _wake(servers, affected)
        down: dict[str, datetime | None] = {}
        deadline = asyncio.get_running_loop().time() + switch.wait_seconds
        while wait and (waiting := [entity.id for entity in affected if entity.id not in down]):
            down |= await standstill.down(waiting, since)
            if asyncio.get_running_loop().time() > deadline:
                names = ", ".join(one for one in waiting if one not in down)
                raise Failure(
                    f"{switch.done}, but not confirmed down within {switch.wait_seconds:g} s: {names}", ExitCode.TIMEOUT
                )
            await asyncio.sleep(_POLL_SECONDS)
        return {
            "held": _names(targets),
            "graceful": switch.graceful,
            "since": since,
            "reason": reason,
            "bots": [entity.id for entity in affected],
            "down": list(down),
            "down_at": down,
        }


def _down_text(name: str, data: dict[str, Any]) -> str:
    at: datetime | None = data["down_at"][name]
    if at is None:
        return f"{cell(name)} was already down"
    return f"{cell(name)} is down since {at:%H:%M:%S.%f} UTC ({(at - data['since']).total_seconds():.2f} s)"


async def _let_run(switch: Switch, done: str, targets: Sequence[HoldTarget]) -> dict[str, Any]:
    async with connected() as servers:
        entities = await servers.entities(BOT_RUNNER)
        affected = await _affected(servers, targets)
        holds = await entities.holds.current()
        missing = [target for target in targets if holds.exactly(target, graceful=switch.graceful) is None]
        if missing:
            raise Failure(_no_hold(switch, missing, affected), ExitCode.NOT_FOUND)
        for target in targets:
            await entities.holds.resume(target, graceful=switch.graceful)
        await record(servers, Action.STARTED if switch.graceful else Action.RESUMED, _recorded(targets))
        await _wake(servers, affected)
        names = [entity.id for entity in affected]
        still = {e.id: _held_by(e) for e in (await entities.by_ids(names)).values() if e.held is not None}
        return {done: _names(targets), "bots": names, "still_held": still}


def _recorded(targets: Sequence[HoldTarget]) -> list[str]:
    """Return the names of *targets* in the audit record."""
    return [target.value if target.kind == "id" else str(target) for target in targets]


async def _wake(servers: Connections, affected: Sequence[Entity]) -> None:
    segments = {entity.segment_id for entity in affected}
    await WakeUps(await servers.nats_if_up(), BOT_RUNNER.name).segments_changed(segments)


async def _affected(servers: Connections, targets: Sequence[HoldTarget]) -> list[Entity]:
    entities = await servers.entities(BOT_RUNNER)
    if all(target.kind == "id" for target in targets):
        return list((await entities.by_ids({target.value for target in targets})).values())
    return [entity async for entity in entities.all() if any(target.matches(entity.document) for target in targets)]


def _no_such(switch: Switch, targets: Sequence[HoldTarget]) -> str:
    """Return why nothing is held, and the remedy."""
    if targets[0].kind == "selector":
        nothing = f"no bot has {targets[0]} now"
    else:
        named = ", ".join(repr(target.value) for target in targets)
        nothing = f"there is no bot {named}; `runtime bot ls` lists all bots"
    return f"{nothing}. Nothing was changed; `runtime bot {switch.name} --future` also applies to future bots"


def _no_hold(switch: Switch, targets: Sequence[HoldTarget], affected: Sequence[Entity]) -> str:
    message = f"there is no hold by `runtime bot {switch.name}` on {_names(targets)}"
    known = {entity.id: entity for entity in affected}
    for target in targets:
        entity = known.get(target.value) if target.kind == "id" else None
        if target.kind == "id" and entity is None:
            message += f"; there is no bot {target.value!r}"
        elif entity is not None and entity.held is not None:
            message += f"; {entity.id!r} is {_held_by(entity)}"
    return message


def _held_by(entity: Entity) -> str:
    """Return the hold that keeps a bot down, and the command that lifts it."""
    hold = entity.held
    assert hold is not None
    switch = STOP if hold.graceful else KILL
    option = {"all": "--all", "id": hold.target.value}.get(hold.target.kind, f"--selector {hold.target}")
    return f"{hold.state} ({hold.target}); `runtime bot {switch.undo} {option}` lifts that"


def _names(targets: Sequence[HoldTarget]) -> str:
    return ", ".join(str(target) for target in targets)


def _targets(bot_ids: Sequence[str], selector: str | None, everything: bool) -> list[HoldTarget]:
    if sum((bool(bot_ids), selector is not None, everything)) != 1:
        raise click.UsageError("give exactly one of ID, --selector and --all")
    if bot_ids:
        return [HoldTarget.entity(bot_id) for bot_id in dict.fromkeys(bot_ids)]
    return [HoldTarget.selector(selector) if selector is not None else HoldTarget.everything()]
