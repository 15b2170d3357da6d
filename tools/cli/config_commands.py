"""`config show | set | unset` of bots and schedules."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from libs.core.process.service import ServiceDefinition
from libs.core.store.entities import Entity
from libs.core.store.entity_writer import Derive
from tools.author.config_check import refuse_deployed
from tools.bots.announce import reconfigured
from tools.bots.config_edit import KeyMissing, assignments, masked, with_values, without_keys
from tools.bots.deploying import publish
from tools.bots.redeploy import kept_fields
from tools.cli.connections import Connections, connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.stored_version import stored

Change = Callable[[Mapping[str, Any]], dict[str, Any]]
Watch = Callable[[Connections, str, str], Awaitable[dict[str, Any]]]

reveal_option = click.option("--reveal", is_flag=True, help="Show secrets unmasked.")
keys_argument = click.argument("keys", metavar="KEY...", nargs=-1, required=True)
values_argument = click.argument("values", metavar="KEY=VALUE...", nargs=-1, required=True)


@dataclass(frozen=True)
class Target:
    """The kind of entity whose config is changed.

    Attributes:
        check: raises UserError for an invalid config.
        derive: computes the service's own fields, for a change without an event.
    """

    service: ServiceDefinition
    entity_id: str
    check: Callable[[Mapping[str, Any]], object] = lambda config: None
    derive: Derive | None = None


async def shown(target: Target, *, reveal: bool) -> dict[str, Any]:
    """Return the running config, with secrets masked unless *reveal*."""
    async with connected() as servers:
        known = await stored(servers, target.service, target.entity_id)
        config = known.config if reveal else masked(known.config)
        return {"id": known.id, "version": known.version, "revision": known.revision, "config": config}


def as_text(data: Mapping[str, Any]) -> str:
    """Return the config as indented JSON."""
    return json.dumps(data["config"], indent=2, ensure_ascii=False, default=str)


def setting(values: tuple[str, ...]) -> Change:
    """Return the change of `set`. Raises ConfigEditInvalid."""
    assigned = assignments(values)
    return lambda config: with_values(config, assigned)


def unsetting(keys: tuple[str, ...]) -> Change:
    """Return the change of `unset`."""

    def change(config: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return without_keys(config, keys)
        except KeyMissing as error:
            raise Failure(str(error), ExitCode.NOT_FOUND) from error

    return change


async def changed(target: Target, change: Change, *, beside: Mapping[str, Any], watch: Watch) -> dict[str, Any]:
    """Announce the running version with a changed config, and wait for the result.

    Nothing is announced when the config is already equal.

    Raises:
        UserError: the changed config does not match the schema of the description, or the runtime cannot read it.
    """
    async with connected() as servers:
        known: Entity = await stored(servers, target.service, target.entity_id)
        config = change(known.config)
        if config == known.config:
            return {"id": known.id, "changed": False}
        target.check(config)
        refuse_deployed(known.bot, config, where="the changed config")
        announced = reconfigured(known, config, beside={**kept_fields(known), **beside})
        entities = await servers.entities(target.service, target.derive)
        await publish(servers, target.service, entities, announced, is_new=False)
        return {"id": known.id, "changed": True} | await watch(servers, known.id, announced.updated_at)
