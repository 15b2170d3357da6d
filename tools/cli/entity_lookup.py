"""Find the bot, backtest or schedule that a command names."""

from libs.core.process.service import ServiceDefinition
from libs.core.store.entities import Entity
from tools.cli.connections import Connections
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure


def unknown(service: ServiceDefinition, entity_id: str) -> Failure:
    """Return the failure of a command whose entity does not exist."""
    noun = service.noun
    return Failure(f"there is no {noun} {entity_id!r}; `runtime {noun} ls` lists all {noun}s", ExitCode.NOT_FOUND)


async def existing(servers: Connections, service: ServiceDefinition, entity_id: str) -> Entity:
    """Return the entity.

    Raises:
        Failure: there is no such entity.
    """
    entity: Entity | None = await (await servers.entities(service)).get(entity_id)
    if entity is None:
        raise unknown(service, entity_id)
    return entity
