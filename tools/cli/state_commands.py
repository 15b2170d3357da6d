"""`runtime bot state` and `runtime schedule state`: the persistent state of a bot or schedule."""

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from libs.core.process.service import BOT_RUNNER, ServiceDefinition
from libs.core.room import MIB
from libs.core.saved_state import StateVersion
from libs.core.store.audit import Action
from libs.core.store.runs import RunFilter, RunStore
from libs.core.store.saved_states import SavedStateStore
from libs.docker_runner.state.archives import StateLimits
from libs.docker_runner.state.versions import StateVersions
from tools.bots.saved_states import (
    NoOwnerOfState,
    NoSuchState,
    SavedStates,
    StateChanged,
    name_of,
    sdk_key,
    with_value,
    without,
)
from tools.cli import interrupts
from tools.cli.audit_record import record
from tools.cli.connections import Connections, connected
from tools.cli.entity_lookup import unknown
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import cell, output_option, show
from tools.cli.tables import table
from tools.cli.untrusted import harmless_lines

_ID = click.argument("entity_id", metavar="ID")
_VERSION = click.option("--version", "number", type=click.IntRange(1), help="An earlier version; see `ls --versions`.")
_KEY = click.argument("key")
# Readers of large states need no setting of the workers.
_MOST_MB = 4096


def state_group(service: ServiceDefinition) -> click.Group:
    """Return the commands for the state of the entities of *service*."""
    group = click.Group("state", help=_HELP.format(noun=service.noun))
    for command in _commands(service):
        group.add_command(command)
    return group


_HELP = """Show and change the state that a {noun} keeps between its runs.

Changes need a {noun} that does not run, are new versions, and are what its next run begins with. The last 10 versions
are kept.
"""


def _commands(service: ServiceDefinition) -> list[click.Command]:
    @click.command()
    @_ID
    @click.option("--versions", is_flag=True, help="List the kept versions instead of the keys.")
    @_VERSION
    @output_option
    def ls(entity_id: str, versions: bool, number: int | None, output: str) -> None:
        """List the keys and other files of the state, or its versions."""
        data = interrupts.run(_listed(service, entity_id, versions=versions, number=number))
        columns = ("version", "saved_at", "bytes", "files", "origin") if versions else ("key", "file", "bytes")
        rows = [[row[column] for column in columns] for row in data]
        show(output, data, lambda: table(columns, rows, empty="Nothing is saved."))

    @click.command()
    @_ID
    @_KEY
    @_VERSION
    def get(entity_id: str, key: str, number: int | None) -> None:
        """Print the value of a key of the SDK as JSON, or else the file of that path below /state."""
        content = interrupts.run(_got(service, entity_id, key, number))
        # Written by the bot, with effects on a terminal; a file or a pipe gets the same bytes.
        click.echo(harmless_lines(content.decode(errors="replace")) if sys.stdout.isatty() else content)

    @click.command("set")
    @_ID
    @_KEY
    @click.argument("value")
    @output_option
    def set_value(entity_id: str, key: str, value: str, output: str) -> None:
        """Set a key of the SDK. VALUE is JSON, or else text."""
        change = with_value(name_of(key), _parsed(value))
        data = interrupts.run(
            _changed(service, entity_id, f"set {key!r}", lambda s: s.change(entity_id, "set", change))
        )
        show(output, data, lambda: click.echo(_said(data)))

    @click.command()
    @_ID
    @_KEY
    @output_option
    def unset(entity_id: str, key: str, output: str) -> None:
        """Remove a key of the SDK."""
        change = without(name_of(key))
        data = interrupts.run(
            _changed(service, entity_id, f"unset {key!r}", lambda s: s.change(entity_id, "unset", change))
        )
        show(output, data, lambda: click.echo(_said(data)))

    @click.command()
    @_ID
    @click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
    @_VERSION
    def export(entity_id: str, file: Path, number: int | None) -> None:
        """Write the state into FILE, a tar.gz."""
        file.write_bytes(interrupts.run(_exported(service, entity_id, number)))
        click.echo(f"the state of {cell(entity_id)} is in {file}")

    @click.command("import")
    @_ID
    @click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
    @output_option
    def import_file(entity_id: str, file: Path, output: str) -> None:
        """Replace the state by that in FILE, a tar or tar.gz of files and folders."""
        archive = file.read_bytes()
        data = interrupts.run(_changed(service, entity_id, "import", lambda s: s.replace(entity_id, "import", archive)))
        show(output, data, lambda: click.echo(_said(data)))

    @click.command()
    @_ID
    @click.option("--to", "number", type=click.IntRange(1), help="The version; without it the one before the current.")
    @output_option
    def rollback(entity_id: str, number: int | None, output: str) -> None:
        """Make an earlier version current again, as a new version."""
        data = interrupts.run(_changed(service, entity_id, "rollback", lambda s: _rolled_back(s, entity_id, number)))
        show(output, data, lambda: click.echo(_said(data)))

    @click.command()
    @_ID
    @output_option
    def clear(entity_id: str, output: str) -> None:
        """Let the next run begin with an empty state. Earlier versions stay, for a rollback."""
        data = interrupts.run(_changed(service, entity_id, "clear", lambda s: s.clear(entity_id)))
        show(output, data, lambda: click.echo(_said(data)))

    return [ls, get, set_value, unset, export, import_file, rollback, clear]


async def _listed(
    service: ServiceDefinition, entity_id: str, *, versions: bool, number: int | None
) -> list[dict[str, Any]]:
    async with _states(service) as (_, states):
        if versions:
            return [_row(version) for version in reversed((await states.read(entity_id)).versions)]
        files = await states.files(await states.version(entity_id, number))
    return [
        {"key": sdk_key(name) or "", "file": name.decode(errors="replace"), "bytes": len(file.content)}
        for name, file in sorted(files.items())
        if file.content is not None
    ]


async def _got(service: ServiceDefinition, entity_id: str, key: str, number: int | None) -> bytes:
    async with _states(service) as (_, states):
        files = await states.files(await states.version(entity_id, number))
    names = [key.encode()] if "/" in key else [name_of(key), key.encode()]
    for name in names:
        file = files.get(name)
        if file is not None and file.content is not None:
            return file.content
    raise Failure(f"the state of {entity_id!r} has no key {key!r}", ExitCode.NOT_FOUND)


async def _exported(service: ServiceDefinition, entity_id: str, number: int | None) -> bytes:
    async with _states(service) as (_, states):
        return await states.archive(await states.version(entity_id, number))


async def _rolled_back(states: SavedStates, entity_id: str, number: int | None) -> StateVersion:
    kept = (await states.read(entity_id)).versions
    if number is None:
        if len(kept) < 2:
            raise Failure(f"the state of {entity_id!r} has no earlier version", ExitCode.NOT_FOUND)
        number = kept[-2].number
    return await states.replace(entity_id, "rollback", await states.archive(await states.version(entity_id, number)))


async def _changed(
    service: ServiceDefinition, entity_id: str, what: str, change: Callable[[SavedStates], Awaitable[StateVersion]]
) -> dict[str, Any]:
    async with _states(service) as (servers, states):
        await states.read(entity_id)
        runs = RunStore(await servers.database(service))
        if await runs.list(RunFilter(entity_id=entity_id, open=True), limit=1):
            stop = "runtime bot stop" if service is BOT_RUNNER else "runtime schedule pause"
            raise Failure(
                f"{service.noun} {entity_id!r} runs, and would not see the change: stop it first ({stop} {entity_id})"
            )
        await servers.storage().ensure_bucket(servers.storage_settings().state_bucket)
        version = await change(states)
        await record(servers, Action.UPDATED, [entity_id], f"state {what}: version {version.number}", service)
    return {"id": entity_id, **_row(version)}


@asynccontextmanager
async def _states(service: ServiceDefinition) -> AsyncIterator[tuple[Connections, SavedStates]]:
    async with connected() as servers:
        pointers = SavedStateStore(await servers.database(service), service.collection)
        versions = StateVersions(servers.storage(), servers.storage_settings().state_bucket, pointers, service.name)
        try:
            yield servers, SavedStates(versions, StateLimits(_MOST_MB * MIB))
        except NoOwnerOfState as error:
            raise unknown(service, error.entity_id) from error
        except NoSuchState as error:
            raise Failure(str(error), ExitCode.NOT_FOUND) from error
        except StateChanged as error:
            raise Failure(str(error)) from error


def _row(version: StateVersion) -> dict[str, Any]:
    return {
        "version": version.number,
        "saved_at": version.saved_at.isoformat(timespec="seconds"),
        "bytes": version.size,
        "files": version.files,
        "origin": version.origin,
        "run_id": version.run_id,
    }


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _said(data: dict[str, Any]) -> str:
    return f"version {data['version']} of the state of {cell(data['id'])} is current"
