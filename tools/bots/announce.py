"""The announcement of a deployment: the payload of a bot's event, and its publication."""

import asyncio
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from libs.core.errors import Retryable
from libs.core.events.connection import NatsUnavailable, NobodyListens
from libs.core.events.jetstream import MESSAGE_ID, JetStream
from libs.core.process.service import ServiceDefinition
from libs.core.store.entities import Entity
from libs.core.store.revisions import BY_FIELD
from tools.bots.folder import BotFolder
from tools.bots.redeploy import FIELD as RECORD_FIELD
from tools.cli.local_user import user_of_this_machine

_STREAM_SECONDS = 5.0
_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 1.0


class EventsUnheard(Retryable):
    """No stream stores the event."""

    def __init__(self, subject: str, service: ServiceDefinition) -> None:
        super().__init__(
            f"no stream on this NATS server stores {subject}: a worker of {service.name} creates it at its start"
        )


@dataclass(frozen=True)
class Deployment:
    """One bot for its announcement. *beside* are fields beside the contract's."""

    id: str
    config: Mapping[str, Any]
    custom: Mapping[str, Any]
    beside: Mapping[str, Any] = field(default_factory=dict)

    def payload(self) -> dict[str, Any]:
        """The event's payload."""
        return {**self.beside, "id": self.id, "config": dict(self.config), "custom": dict(self.custom)}

    @property
    def updated_at(self) -> str:
        """The field by which the documents distinguish this version from earlier ones."""
        return str(self.custom["updatedAt"])


def deployment(
    bot_id: str,
    folder: BotFolder,
    config: Mapping[str, Any],
    key: str,
    known: Entity | None,
    *,
    record: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Deployment:
    """Return the deployment of *folder*, whose archive is at *key*. *known* is the existing bot, None for a new one.

    Args:
        record: the origin of the config, for the next deploy; see :mod:`tools.bots.redeploy`.
    """
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    created_at = known.custom.get("createdAt", now) if known is not None else now
    custom = {
        "config": dict(folder.description),
        "createdAt": created_at,
        "updatedAt": now,
        "filePath": key,
        "version": folder.version,
        BY_FIELD: user_of_this_machine(),
    }
    if record is not None:
        custom[RECORD_FIELD] = dict(record)
    return Deployment(bot_id, config, custom, beside or {})


def reconfigured(known: Entity, config: Mapping[str, Any], *, beside: Mapping[str, Any] | None = None) -> Deployment:
    """Return the existing bot with another config."""
    return redeployed(known, config, known.custom, beside=beside)


def redeployed(
    known: Entity,
    config: Mapping[str, Any],
    custom: Mapping[str, Any],
    *,
    beside: Mapping[str, Any] | None = None,
) -> Deployment:
    """Return the existing bot with another config and with the code and the description in *custom*."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return Deployment(known.id, config, {**custom, "updatedAt": now, BY_FIELD: user_of_this_machine()}, beside or {})


class Announcer:
    """Publishes a service's events. Every method raises NatsUnavailable, and EventsUnheard without a stream."""

    def __init__(self, jetstream: JetStream, service: ServiceDefinition) -> None:
        self._jetstream = jetstream
        self._service = service

    async def created(self, deployed: Deployment) -> None:
        """Announce a new entity."""
        await self._publish(self._service.created_subject, deployed.payload())

    async def updated(self, deployed: Deployment) -> None:
        """Announce another config or other code of an entity."""
        await self._publish(_existing(self._service.updated_subject), deployed.payload())

    async def deleted(self, entity_id: str, config: Mapping[str, Any]) -> None:
        """Announce the removal of an entity."""
        await self._publish(_existing(self._service.deleted_subject), {"id": entity_id, "config": dict(config)})

    async def _publish(self, subject: str, payload: Mapping[str, Any]) -> None:
        data = json.dumps(payload).encode()
        headers = {MESSAGE_ID: uuid.uuid4().hex}
        deadline = time.monotonic() + _STREAM_SECONDS
        while True:
            try:
                await self._jetstream.publish(subject, data, headers, _ANSWER_SECONDS)
            except NobodyListens as error:
                # The platform API recreates the stream when it starts, and workers create it shortly after their start.
                if time.monotonic() > deadline:
                    raise EventsUnheard(subject, self._service) from error
                await asyncio.sleep(_POLL_SECONDS)
            except NatsUnavailable:
                # Workers also subscribe without the stream; then a missing stream gives no answer instead of an error.
                # The message id makes repetition safe.
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return


def _existing(subject: str | None) -> str:
    if subject is None:
        raise ValueError("this service does not read that event")
    return subject
