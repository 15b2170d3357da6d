"""The output of real containers on its way to a real S3 server, for tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import SecretStr

from libs.core.config.connection_settings import StorageSettings
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.logs.handover import HandOver
from libs.docker_runner.logs.history import LogHistory
from libs.docker_runner.logs.objects import LogObjects
from libs.docker_runner.logs.open_logs import OpenLogs
from libs.docker_runner.logs.pipeline import LogPipeline
from tests.support.rigs.bot_containers import BotContainers
from tools.stack.s3 import S3Server


@asynccontextmanager
async def log_store(server: S3Server, bucket: str) -> AsyncIterator[ObjectStore]:
    """A client whose logs go to *bucket*."""
    store = ObjectStore(
        StorageSettings(
            endpoint=server.endpoint,
            access_key=SecretStr(S3Server.access_key),
            secret_key=SecretStr(S3Server.secret_key),
            logs_bucket=bucket,
        )
    )
    await store.ensure_bucket(bucket)
    yield store
    await store.close()


@asynccontextmanager
async def pipeline(
    bots: BotContainers, store: ObjectStore, interval_seconds: float = 0.2
) -> AsyncIterator[LogPipeline]:
    """A running pipeline, which is killed at the end."""
    bucket = store.settings.logs_bucket
    logs = OpenLogs(bots.settings.temp_dir / "logs", LogObjects(store, bucket))
    turns = HandOver(store, bucket, place="", writer="here", owns=lambda segment: True)
    pipeline = LogPipeline(bots.runner.followed, logs, turns, interval_seconds=interval_seconds)
    running = asyncio.create_task(pipeline.run())
    try:
        yield pipeline
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def stored(store: ObjectStore, entity_id: str) -> bytes:
    """Return the complete stored output of a bot."""
    history = LogHistory(store, store.settings.logs_bucket)
    return b"".join([piece async for piece in history.read(await history.parts(entity_id))])


async def engines_own(bots: BotContainers, container: ManagedContainer) -> bytes:
    """Return the engine's copy of a container's output."""
    return b"".join([line.data async for line in bots.runner.logs(container)])
