"""`runtime bot data`: shared data sets, which bots, backtests and schedules read at /data/NAME."""

from pathlib import Path
from typing import Any

import click

from libs.core.process.service import SERVICES
from libs.core.room import MIB
from libs.core.storage.data_sets import DataCatalog, DataSet, is_data_name
from libs.core.store.audit import Action
from tools.bots.data_upload import (
    PackedData,
    check_name,
    check_owner,
    packed,
    refuse_beyond_quota,
    refuse_other,
    upload_data,
)
from tools.cli import interrupts
from tools.cli.audit_record import record
from tools.cli.connections import Connections, connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.local_user import user_name, user_of_this_machine
from tools.cli.output import cell, output_option, show, table

_COLUMNS = ("name", "kind", "files", "size", "version", "owner", "uploaded", "by")
_VERSION_CHARACTERS = 12
_SHOWN_USES = 5

_owner_option = click.option(
    "--owner",
    envvar="THE0_OWNER",
    default=user_name,
    show_default="the name of this user",
    help="Whose data set it is, named as the owner of bots, such as the author; others cannot replace or remove it.",
)


@click.group("data", context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Upload, list and remove shared read-only data sets.

    With `"dataSets": ["NAME"]` in its config or bot.json, a bot, backtest or schedule finds it at /data/NAME.
    """


@data.command()
@click.argument("name")
@click.argument("source", metavar="FILE|DIR", type=click.Path(exists=True, path_type=Path))
@_owner_option
@output_option
def put(name: str, source: Path, owner: str, output: str) -> None:
    """Upload a file or folder as the data set NAME, or as its new version.

    A file is the file /data/NAME, a folder the folder /data/NAME. Running bots keep the version with which they were
    started.

    Exit code 2 when the data set is of another owner, or exceeds the owner's quota.
    """
    check_name(name)
    check_owner(owner)
    with packed(source) as content:
        found, is_new = interrupts.run(_put(name, content, owner))
    facts = {**_facts(found), "changed": is_new}
    size = f"{found.files} file{'s' if found.files != 1 else ''}, {_size(found.total_bytes)}"
    shown = f"{cell(name)} is version {facts['version']} ({size})" + ("" if is_new else "; it was the same before")
    show(output, facts, lambda: click.echo(shown))


@data.command()
@output_option
def ls(output: str) -> None:
    """List the data sets with their current versions."""
    found = interrupts.run(_ls())
    rows = [[one[name] if name != "size" else _size(one["bytes"]) for name in _COLUMNS] for one in found]
    show(output, found, lambda: table(_COLUMNS, rows, empty="There are no data sets."))


@data.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Remove it even if bots, backtests or schedules name it.")
@_owner_option
@output_option
def rm(name: str, force: bool, owner: str, output: str) -> None:
    """Remove the data set NAME, unless it is of another owner, or a bot, backtest or schedule names it.

    With --force, running bots keep it; those that name it do not start any more.

    Exit code 4 when there is no such data set.
    """
    interrupts.run(_rm(name, owner, force=force))
    show(output, {"name": name, "removed": True}, lambda: click.echo(f"{cell(name)} is removed."))


async def _put(name: str, content: PackedData, owner: str) -> tuple[DataSet, bool]:
    async with connected() as servers:
        catalog = _catalog(servers)
        refuse_other(await catalog.get(name), owner)
        await refuse_beyond_quota(catalog, name, content, owner, servers.quota_settings().data_mb * MIB)
        found, is_new = await upload_data(catalog, name, content, user_of_this_machine(), owner)
        if is_new:
            version = found.sha256[:_VERSION_CHARACTERS]
            await record(servers, Action.UPDATED, [_target(name)], f"version {version}, owner {owner}")
        return found, is_new


async def _ls() -> list[dict[str, Any]]:
    async with connected() as servers:
        return [_facts(one) async for one in _catalog(servers).all()]


async def _rm(name: str, owner: str, *, force: bool) -> None:
    async with connected() as servers:
        catalog = _catalog(servers)
        found = await catalog.get(name) if is_data_name(name) else None
        refuse_other(found, owner)
        if not force and found is not None:
            await _refuse_used(servers, name)
        if not await catalog.remove(name):
            raise Failure(f"there is no data set {name!r}; `runtime bot data ls` lists all", ExitCode.NOT_FOUND)
        await record(servers, Action.DELETED, [_target(name)], f"owner {found.owner}" if found and found.owner else "")


async def _refuse_used(servers: Connections, name: str) -> None:
    """Raise Failure if an entity names the data set: it would not start any more."""
    uses = []
    for service in SERVICES:
        ids = await (await servers.entities(service)).naming_data(name)
        if ids:
            shown = [*map(repr, ids[:_SHOWN_USES]), *(["…"] if len(ids) > _SHOWN_USES else [])]
            uses.append(f"{len(ids)} {service.noun}{'s' if len(ids) > 1 else ''} ({', '.join(shown)})")
    if uses:
        raise Failure(
            f"data set {name!r} is named by {', '.join(uses)}, which would not start any more; remove the name from "
            f"`dataSets` in their configs or bot.json, or use --force"
        )


def _size(total_bytes: int) -> str:
    return f"{total_bytes:,} bytes" if total_bytes < MIB // 10 else f"{total_bytes / MIB:,.1f} MiB"


def _target(name: str) -> str:
    """Return what an audit record names: a data set has no entity's id."""
    return f"data set {name}"


def _catalog(servers: Connections) -> DataCatalog:
    settings = servers.storage_settings()
    return DataCatalog(servers.storage(), settings.data_bucket or settings.code_bucket, settings.data_prefix)


def _facts(one: DataSet) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": str(one.kind),
        "files": one.files,
        "bytes": one.total_bytes,
        "version": one.sha256[:_VERSION_CHARACTERS],
        "sha256": one.sha256,
        "owner": one.owner,
        "uploaded": one.uploaded_at,
        "by": one.uploaded_by,
    }
