"""A stand-in for the platform's API: uploads code and publishes events by the contract alone."""

import io
import json
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import nats
from minio import Minio
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from tools.stack.nats import NatsServer
from tools.stack.s3 import S3Server

STREAM = "THE0_EVENTS"
SUBJECTS = [
    *(
        f"custom-bot.{what}"
        for what in ("submitted", "approved", "declined", "awaiting-human-review", "analysis-failed")
    ),
    *(f"the0.bot.{what}" for what in ("created", "updated", "deleted")),
    *(f"the0.bot-schedule.{what}" for what in ("created", "updated", "deleted")),
    *(f"the0.backtest.{what}" for what in ("created", "completed")),
]
_ANSWER_SECONDS = 60.0


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    """Return a ZIP archive of *files* by their paths."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return buffer.getvalue()


@dataclass
class Platform:
    """One client of the runtime's external interfaces. Uploads block briefly, which tests may."""

    client: Client
    storage: Minio
    bucket: str = "bots"
    created_at: dict[str, str] = field(default_factory=dict)

    async def ensure_stream(self) -> None:
        """Create the stream if it is missing."""
        stream = self.client.jetstream(timeout=_ANSWER_SECONDS)
        try:
            await stream.stream_info(STREAM)
        except NotFoundError:
            await stream.add_stream(name=STREAM, subjects=SUBJECTS, max_age=7 * 86_400)

    def upload(self, key: str, archive: bytes) -> None:
        """Upload *archive* under *key* of the code bucket."""
        if not self.storage.bucket_exists(self.bucket):
            self.storage.make_bucket(self.bucket)
        self.storage.put_object(self.bucket, key, io.BytesIO(archive), len(archive))

    def payload(
        self,
        entity_id: str,
        config: Mapping[str, Any],
        *,
        key: str,
        runtime: str = "python3.11",
        script: str = "main.py",
        version: str = "1.0.0",
        author: str = "tests",
    ) -> dict[str, Any]:
        """Return the payload of a `created` or `updated` event."""
        now = datetime.now(UTC).isoformat()
        entrypoints = {"bot": script, "backtest": script}
        return {
            "id": entity_id,
            "config": dict(config),
            "custom": {
                "config": {
                    "name": entity_id[:50],
                    "description": "made by a test",
                    "runtime": runtime,
                    "version": version,
                    "author": author,
                    "type": "trading",
                    "entrypoints": entrypoints,
                    "schema": {},
                    "readme": "",
                    "metadata": {},
                },
                "createdAt": self.created_at.setdefault(entity_id, now),
                "updatedAt": now,
                "filePath": key,
                "version": version,
            },
        }

    async def publish(self, subject: str, payload: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        """Publish to the stream and return when it is stored."""
        await self.client.jetstream(timeout=_ANSWER_SECONDS).publish(
            subject, json.dumps(payload).encode(), headers=dict(headers or {})
        )

    async def create_bot(self, bot_id: str, config: Mapping[str, Any], *, key: str, **description: Any) -> None:
        """Announce a bot whose code was uploaded under *key*."""
        await self.publish("the0.bot.created", self.payload(bot_id, config, key=key, **description))

    async def update_bot(self, bot_id: str, config: Mapping[str, Any], *, key: str, **description: Any) -> None:
        """Announce a change of a bot."""
        await self.publish("the0.bot.updated", self.payload(bot_id, config, key=key, **description))

    async def delete_bot(self, bot_id: str) -> None:
        """Announce the deletion of a bot."""
        await self.publish("the0.bot.deleted", {"id": bot_id, "config": {}})

    async def create_backtest(
        self,
        backtest_id: str,
        config: Mapping[str, Any],
        *,
        key: str,
        headers: Mapping[str, str] | None = None,
        **description: Any,
    ) -> None:
        """Announce a backtest like the API: a core publish, with capitalised keys."""
        payload = self.backtest_payload(backtest_id, config, key=key, **description)
        await self.client.publish("the0.backtest.created", json.dumps(payload).encode(), headers=dict(headers or {}))
        await self.client.flush()

    def backtest_payload(
        self, backtest_id: str, config: Mapping[str, Any], *, key: str, **description: Any
    ) -> dict[str, Any]:
        """Return the payload that announces a backtest."""
        described = self.payload(backtest_id, config, key=key, **description)
        custom = described["custom"]
        return {
            "ID": described["id"],
            "Config": described["config"],
            "Custom": {
                "Config": custom["config"],
                "CreatedAt": custom["createdAt"],
                "UpdatedAt": custom["updatedAt"],
                "FilePath": custom["filePath"],
                "Version": custom["version"],
            },
        }


@asynccontextmanager
async def platform(nats_server: NatsServer, s3_server: S3Server, *, bucket: str = "bots") -> AsyncIterator[Platform]:
    """A connected platform; the connection is closed afterwards."""
    client = await nats.connect(nats_server.url, connect_timeout=int(_ANSWER_SECONDS))
    storage = Minio(s3_server.endpoint, access_key=s3_server.access_key, secret_key=s3_server.secret_key, secure=False)
    try:
        made = Platform(client, storage, bucket)
        await made.ensure_stream()
        yield made
    finally:
        await client.close()
