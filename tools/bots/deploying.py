"""Deploy a folder as a bot, backtest or schedule: pack, upload, and announce it to its service."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libs.core.process.service import ServiceDefinition
from libs.core.store.code_retention import CodeRetention
from libs.core.store.entities import Entity, EntityStore
from tools.bots.announce import Announcer, Deployment, deployment
from tools.bots.code_upload import CodeUpload
from tools.bots.folder import BotFolder
from tools.bots.package import Package
from tools.cli.connections import Connections


@dataclass(frozen=True)
class Upload:
    """A folder whose code is in the storage, to be announced as *entity_id*."""

    entity_id: str
    folder: BotFolder
    package: Package
    bucket: str
    key: str


@dataclass(frozen=True)
class Announcement:
    """The announced entity, and the event: `created` or `updated`."""

    upload: Upload
    deployment: Deployment
    event: str

    def facts(self) -> dict[str, Any]:
        """Return the result for display."""
        upload = self.upload
        return {
            "id": upload.entity_id,
            "event": self.event,
            "version": upload.folder.version,
            "runtime": upload.folder.description["runtime"],
            "code": {
                "bucket": upload.bucket,
                "key": upload.key,
                "sha256": upload.package.digest,
                "files": upload.package.files,
            },
        }


async def upload(
    servers: Connections,
    service: ServiceDefinition,
    folder: BotFolder,
    entity_id: str,
    package: Package,
    known: Entity | None = None,
) -> Upload:
    """Upload *package*, the code of *folder*, into the code bucket; see :meth:`CodeUpload.key_of`."""
    uploads = await code_upload(servers, service)
    key = await uploads.key_of(package, known)
    return Upload(entity_id, folder, package, servers.storage_settings().code_bucket, key)


async def code_upload(servers: Connections, service: ServiceDefinition) -> CodeUpload:
    """Return the uploader of *service*."""
    return CodeUpload(
        service,
        servers.storage(),
        servers.storage_settings().code_bucket,
        CodeRetention(await servers.database(service)),
        servers.retention_settings().code_keep_seconds,
    )


async def announce(
    servers: Connections,
    service: ServiceDefinition,
    entities: EntityStore,
    uploaded: Upload,
    config: Mapping[str, Any],
    *,
    record: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Announcement:
    """Return the announcement of *uploaded* with *config*: as a new entity, or as another version of an existing one.

    Args:
        record, beside: as for :func:`tools.bots.announce.deployment`.

    Raises:
        Retryable: NATS or MongoDB is unreachable, or no stream stores the event.
    """
    known = await entities.get(uploaded.entity_id)
    announced = deployment(
        uploaded.entity_id, uploaded.folder, config, uploaded.key, known, record=record, beside=beside
    )
    await publish(servers, service, entities, announced, is_new=known is None)
    return Announcement(uploaded, announced, "created" if known is None else "updated")


async def publish(
    servers: Connections, service: ServiceDefinition, entities: EntityStore, announced: Deployment, *, is_new: bool
) -> None:
    """Publish *announced*. Without NATS it is written into MongoDB, where the workers find it.

    Raises:
        Retryable: NATS or MongoDB is unreachable, or no stream stores the event.
    """
    if servers.has_nats:
        announcer = Announcer(await servers.jetstream(), service)
        await (announcer.created(announced) if is_new else announcer.updated(announced))
    elif service.updated_subject is None:
        await entities.create(announced.id, announced.config, announced.custom, beside=announced.beside)
    else:
        await entities.update(announced.id, announced.config, announced.custom, beside=announced.beside)
