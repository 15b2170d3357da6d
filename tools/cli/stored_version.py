"""The deployed version of an entity, for commands that deploy or configure."""

from pathlib import Path

from libs.core.process.service import ServiceDefinition
from libs.core.store.entities import Entity
from libs.core.store.releases import effective
from tools.bots.errors import BotFolderInvalid
from tools.bots.folder import BotFolder, folder_name, read_folder
from tools.bots.redeploy import Flags
from tools.cli.connections import Connections
from tools.cli.entity_lookup import existing


async def stored(servers: Connections, service: ServiceDefinition, entity_id: str) -> Entity:
    """Return the running version of *entity_id*: the newest one, or the previous one while that is rejected.

    Raises:
        Failure: there is no such entity.
    """
    return effective(await existing(servers, service, entity_id))


async def folder_and_known(
    servers: Connections, service: ServiceDefinition, directory: Path, entity_id: str | None, flags: Flags
) -> tuple[BotFolder, Entity | None, Flags]:
    """Return the folder, the running version (None for a new entity), and *flags* with those of earlier deploys.

    Raises:
        BotFolderInvalid: the folder cannot be deployed, even if the servers do not answer.
    """
    invalid: BotFolderInvalid | None = None
    try:
        folder_id = read_folder(directory, flags.runtime, flags.entrypoint).name
    except BotFolderInvalid as error:
        # A flag of an earlier deploy may provide what the folder lacks.
        invalid, folder_id = error, folder_name(directory)
    try:
        entities = await servers.entities(service)
        known = await entities.get(entity_id or folder_id)
    except Exception:
        if invalid is not None:
            raise invalid from None
        raise
    known = effective(known) if known is not None else None
    flags = flags.over(known)
    return read_folder(directory, flags.runtime, flags.entrypoint), known, flags
