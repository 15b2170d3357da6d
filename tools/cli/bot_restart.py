"""`runtime bot restart`: restart bots gracefully, one after another."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from libs.core.events.wakeups import WakeUps
from libs.core.process.service import BOT_RUNNER
from libs.core.store.audit import Action
from libs.core.store.entities import RESTART_FIELD, Entity
from services.bot_runner.status import BotState
from tools.cli import interrupts
from tools.cli.audit_record import record
from tools.cli.bot_waiting import wait_option
from tools.cli.connections import Connections, connected
from tools.cli.entity_lookup import existing
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.local_user import user_of_this_machine
from tools.cli.output import cell, output_option, show

_POLL_SECONDS = 0.1
# A bot has BOT_STOP_SECONDS, 30 by default, to end by itself.
_WAIT_SECONDS = 120.0


@click.command()
@click.argument("bot_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--reason", default="", help="The reason, for the audit record.")
@wait_option
@output_option
def restart(bot_ids: tuple[str, ...], reason: str, no_wait: bool, output: str) -> None:
    """Restart bots gracefully: SIGTERM, time for their `finally` blocks, and a new start of the same version.

    Several bots are restarted one after another, each when the one before runs again. A request is stored before it is
    carried out: it survives this command, workers and masters. A bot that backs off starts at once.

    Exit code 4 when there is no such bot, 1 when one is held or disabled, or does not run again.
    """
    done = interrupts.run(_restart(list(dict.fromkeys(bot_ids)), reason, wait=not no_wait))
    show(output, done, lambda: click.echo("\n".join(_said(one) for one in done)))


async def _restart(bot_ids: Sequence[str], reason: str, *, wait: bool) -> list[dict[str, Any]]:
    async with connected() as servers:
        for entity in [await existing(servers, BOT_RUNNER, bot_id) for bot_id in bot_ids]:
            _check(entity)
        return [await _one(servers, bot_id, reason, wait=wait) for bot_id in bot_ids]


async def _one(servers: Connections, bot_id: str, reason: str, *, wait: bool) -> dict[str, Any]:
    entity = await existing(servers, BOT_RUNNER, bot_id)
    _check(entity)
    entities = await servers.entities(BOT_RUNNER)
    request = {"id": uuid.uuid4().hex, "at": datetime.now(UTC), "by": user_of_this_machine()}
    same = {"_id": entity.document["_id"]}
    if not await entities.compare_and_set(bot_id, same, {RESTART_FIELD: request}):
        raise Failure(f"bot {bot_id!r} was removed meanwhile", ExitCode.NOT_FOUND)
    detail = f"restart: {reason}" if reason else "restart"
    await record(servers, Action.STARTED, [bot_id], detail)
    await WakeUps(await servers.nats_if_up(), BOT_RUNNER.name).segments_changed({entity.segment_id})
    facts = {"id": bot_id, "restart": request["id"]}
    return facts | (await _running_again(servers, entity, str(request["id"])) if wait else {"state": "requested"})


async def _running_again(servers: Connections, before: Entity, request_id: str) -> dict[str, Any]:
    deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
    while True:
        now = await existing(servers, BOT_RUNNER, before.id)
        status = now.status
        state = status.get("state")
        if now.restart == request_id and status.get("restart") == request_id:
            is_new = status.get("run_id") and status.get("run_id") != before.status.get("run_id")
            if state == BotState.RUNNING and is_new:
                return {"state": str(state), "worker": str(status.get("worker", "")), "run_id": status["run_id"]}
            if state == BotState.REJECTED or (state == BotState.BACKING_OFF and status.get("failures")):
                raise Failure(f"bot {before.id!r} does not run again: {status.get('detail') or state}")
        elif now.restart != request_id:
            return {"state": "superseded"}
        if now.held is not None or not now.enabled:
            raise Failure(f"bot {before.id!r} does not run again: it is {now.held.state if now.held else 'disabled'}")
        if asyncio.get_running_loop().time() > deadline:
            raise Failure(
                f"the restart of {before.id!r} is requested, but it does not run again within {_WAIT_SECONDS:g} s: "
                f"it is {state or 'not started'}; the request stays, see `runtime bot show {before.id}`",
                ExitCode.TIMEOUT,
            )
        await asyncio.sleep(_POLL_SECONDS)


def _check(entity: Entity) -> None:
    """Raise Failure for a bot that must not run."""
    if entity.held is not None:
        undo = "start" if entity.held.graceful else "resume"
        raise Failure(
            f"bot {entity.id!r} is {entity.held.state} ({entity.held.target}); `runtime bot {undo}` lets it run. "
            "Nothing was restarted"
        )
    if not entity.enabled:
        raise Failure(
            f"bot {entity.id!r} is disabled; `runtime bot config set {entity.id} enabled=true` lets it run. "
            "Nothing was restarted"
        )


def _said(one: dict[str, Any]) -> str:
    if one["state"] == BotState.RUNNING:
        return f"{cell(one['id'])} is restarted, and running on {cell(one['worker'])}"
    return f"{cell(one['id'])}: restart {one['state']}"
