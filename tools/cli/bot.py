"""`runtime bot`: what a person does with bots."""

import asyncio
import json
from pathlib import Path
from typing import Any

import click

from libs.core.events.wakeups import WakeUps
from libs.core.service import BOT_RUNNER
from libs.core.store.entities import Entity
from libs.core.store.holds import HoldStore, HoldTarget
from libs.core.store.runs import RunStore
from tools.bots.announce import Announcer, deployment
from tools.bots.folder import read_folder
from tools.bots.outcome import NotInTime, until_gone, until_settled
from tools.bots.package import pack
from tools.cli import interrupts
from tools.cli.bot_logs import logs
from tools.cli.connections import Connections, connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import output_option, show, table

_WAIT_SECONDS = 60.0

wait_option = click.option("--no-wait", is_flag=True, help="Return as soon as it is announced.")


@click.group()
def bot() -> None:
    """Deploy, list, follow, stop and remove bots.

    Servers are found by the environment (MONGO_URI, NATS_URL, MINIO_ENDPOINT and its keys), or else in the dev stack
    that `runtime dev up` started.
    """


bot.add_command(logs)


@bot.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--id", "bot_id", help="The bot's id.  [the name in bot.json, else the folder's name]")
@click.option("--config", help="A JSON object or a file with one; its keys replace those of bot.json's config.")
@click.option("--runtime", help="python3.11 or nodejs20.  [from bot.json, else guessed from the files]")
@click.option("--entrypoint", help="The file to run.  [from bot.json, else main.py, main.js or index.js]")
@wait_option
@output_option
def deploy(
    directory: Path,
    bot_id: str | None,
    config: str | None,
    runtime: str | None,
    entrypoint: str | None,
    no_wait: bool,
    output: str,
) -> None:
    """Upload the bot in DIRECTORY and run it, or bring it to this version if it exists.

    Exit code 1 when the bot does not run (its last lines are shown), 5 when nothing is known after a minute.
    """
    data = interrupts.run(_deploy(directory, bot_id, config, runtime, entrypoint, not no_wait))
    show(output, data, lambda: click.echo(_told(data)))


@bot.command()
@output_option
def ls(output: str) -> None:
    """List the bots with their states."""
    bots = interrupts.run(_ls())
    columns = ("id", "state", "segment", "worker", "restarts", "version", "runtime", "since", "detail")
    show(output, bots, lambda: table(columns, [[b[c] for c in columns] for b in bots], empty="There are no bots."))


@bot.command()
@click.argument("bot_id", metavar="ID")
@wait_option
@output_option
def rm(bot_id: str, no_wait: bool, output: str) -> None:
    """Remove a bot; its container is stopped. Removing one that is not there is a success for the events, not here."""
    interrupts.run(_rm(bot_id, not no_wait))
    show(output, {"id": bot_id, "removed": True}, lambda: click.echo(f"{bot_id} is removed."))


id_argument = click.argument("bot_id", metavar="[ID]", required=False)
selector_option = click.option("--selector", help="All bots with a value in a field: custom.config.author=alice")
all_option = click.option("--all", "everything", is_flag=True, help="All bots, those to come too.")


@bot.command()
@id_argument
@selector_option
@all_option
@click.option("--reason", default="", help="Why, for those who wonder later.")
@output_option
def kill(bot_id: str | None, selector: str | None, everything: bool, reason: str, output: str) -> None:
    """Stop bots at once, and keep them stopped whatever events arrive, until `resume`."""
    data = interrupts.run(_kill(_target(bot_id, selector, everything), reason))
    lines = [f"held: {data['held']}", *(f"{name} is down" for name in data["down"])]
    show(output, data, lambda: click.echo("\n".join(lines)))


@bot.command()
@id_argument
@selector_option
@all_option
@output_option
def resume(bot_id: str | None, selector: str | None, everything: bool, output: str) -> None:
    """Undo exactly one `kill`: the same ID, --selector or --all."""
    data = interrupts.run(_resume(_target(bot_id, selector, everything)))
    show(output, data, lambda: click.echo(f"resumed: {data['resumed']}"))


async def _deploy(
    directory: Path, bot_id: str | None, config: str | None, runtime: str | None, entrypoint: str | None, wait: bool
) -> dict[str, Any]:
    folder = read_folder(directory, runtime, entrypoint)
    config_now = {**folder.config, **_config(config)}
    package = pack(directory)
    bot_id = bot_id or folder.name
    async with connected() as servers:
        entities = await servers.entities(BOT_RUNNER)
        storage, bucket = servers.storage(), servers.storage_settings().code_bucket
        await storage.ensure_bucket(bucket)
        key = package.key(bot_id)
        await storage.put(bucket, key, package.content, "application/zip")
        known = await entities.get(bot_id)
        deployed = deployment(bot_id, folder, config_now, key, known)
        if servers.has_nats:
            announcer = Announcer(await servers.jetstream(), BOT_RUNNER)
            await (announcer.created(deployed) if known is None else announcer.updated(deployed))
        else:
            await entities.update(bot_id, deployed.config, deployed.custom)
        data: dict[str, Any] = {
            "id": bot_id,
            "event": "created" if known is None else "updated",
            "version": folder.version,
            "runtime": folder.description["runtime"],
            "code": {"bucket": bucket, "key": key, "sha256": package.digest, "files": package.files},
        }
        if wait:
            runs = RunStore(await servers.database(BOT_RUNNER))
            settled = await _in_time(until_settled(entities, runs, bot_id, deployed.custom["updatedAt"], _WAIT_SECONDS))
            data |= {
                "state": settled.state,
                "detail": settled.detail,
                "worker": settled.worker,
                "container": settled.container,
                "segment": settled.segment,
            }
        return data


async def _ls() -> list[dict[str, Any]]:
    async with connected() as servers:
        entities = await servers.entities(BOT_RUNNER)
        found: list[Entity] = []
        while page := await entities.page(after_id=found[-1].id if found else ""):
            found += page
        return [_row(entity) for entity in found]


async def _rm(bot_id: str, wait: bool) -> None:
    async with connected() as servers:
        entities = await servers.entities(BOT_RUNNER)
        known = await entities.get(bot_id)
        if known is None:
            raise Failure(
                f"there is no bot {bot_id!r}; `runtime bot ls` lists those that there are", ExitCode.NOT_FOUND
            )
        if servers.has_nats:
            await Announcer(await servers.jetstream(), BOT_RUNNER).deleted(bot_id, known.config)
        else:
            await entities.delete(bot_id)
        if wait:
            runs = RunStore(await servers.database(BOT_RUNNER))
            await _in_time(until_gone(entities, runs, bot_id, _WAIT_SECONDS))


async def _kill(target: HoldTarget, reason: str) -> dict[str, Any]:
    async with connected() as servers:
        entities = await servers.entities(BOT_RUNNER)
        database = await servers.database(BOT_RUNNER)
        hold = await HoldStore(database).hold(target, by="runtime bot kill", reason=reason)
        affected = await _affected(servers, target)
        await WakeUps(await servers.nats_if_up(), BOT_RUNNER.name).segments_changed({e.segment_id for e in affected})
        down = []
        deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
        while waiting := [e for e in affected if e.id not in down]:
            for entity in waiting:
                now = await entities.get(entity.id)
                # One that was not running has no more to report.
                if now is None or now.status.get("state") not in ("running", "starting"):
                    down.append(entity.id)
            if asyncio.get_running_loop().time() > deadline:
                names = ", ".join(e.id for e in waiting)
                raise Failure(f"held, but not seen down within {_WAIT_SECONDS:g} s: {names}", ExitCode.TIMEOUT)
            await asyncio.sleep(0.05)
        return {"held": str(target), "since": hold.since, "reason": reason, "down": down}


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


async def _in_time(waiting: Any) -> Any:
    try:
        return await waiting
    except NotInTime as error:
        raise Failure(str(error), ExitCode.TIMEOUT) from error


def _target(bot_id: str | None, selector: str | None, everything: bool) -> HoldTarget:
    if sum((bot_id is not None, selector is not None, everything)) != 1:
        raise click.UsageError("give exactly one of ID, --selector and --all")
    if bot_id is not None:
        return HoldTarget.entity(bot_id)
    return HoldTarget.selector(selector) if selector is not None else HoldTarget.everything()


def _config(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    if not text.lstrip().startswith("{"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except OSError as error:
            raise click.UsageError(f"--config is neither a JSON object nor a file that can be read: {error}") from error
    try:
        config = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--config is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise click.UsageError("--config must be a JSON object")
    return config


def _row(entity: Entity) -> dict[str, Any]:
    status = entity.status
    state = status.get("state") or ("waiting" if entity.should_run else "off")
    return {
        "id": entity.id,
        "state": state,
        "detail": status.get("detail", ""),
        "segment": entity.segment_id,
        "worker": status.get("worker") or None,
        "container": status.get("container") or None,
        "restarts": status.get("restarts", 0),
        "version": entity.version,
        "runtime": entity.runtime,
        "revision": entity.revision,
        "since": status.get("since"),
        "held": str(entity.held.target) if entity.held is not None else None,
    }


def _told(data: dict[str, Any]) -> str:
    text = f"{data['id']} {data['version']} is {data['event']}"
    if "state" in data:
        where = f" on {data['worker']} (segment {data['segment']})" if data["worker"] else ""
        text += f", and {data['state']}{where}"
        text += f": {data['detail']}" if data["detail"] else ""
    return text
