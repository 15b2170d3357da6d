"""The garbage collector in the processes that run it: masters, as users start them."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio

from libs.core.process.service import BOT_RUNNER
from libs.core.store.client import Mongo
from libs.core.store.entities import EntityStore
from libs.core.store.partitions import PartitionStore
from tests.support.eventually import eventually
from tests.support.rigs.garbage_rig import GarbageRig, garbage_rig
from tools.dev.service import ServiceProcess
from tools.stack.mongod import MongoServer
from tools.stack.ports import free_port
from tools.stack.s3 import S3Server

ORPHAN = f".the0/code/bot-runner/{'a' * 64}-0.zip"
USED = f".the0/code/bot-runner/{'b' * 64}-0.zip"
OTHERS = {"user/bot.zip", f".the0/code/backtest-runner/{'a' * 64}-0.zip"}

StartMaster = Callable[..., ServiceProcess]


@pytest_asyncio.fixture(loop_scope="session")
async def own_mongod(tmp_path: Path) -> AsyncIterator[MongoServer]:
    # The names of a service's databases are fixed.
    async with MongoServer.start(tmp_path / "mongod") as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def rig(own_mongod: MongoServer, s3_server: S3Server, bucket_prefix: str) -> AsyncIterator[GarbageRig]:
    async with garbage_rig(own_mongod.uri, s3_server, bucket_prefix, "rig") as rig:
        for key in (ORPHAN, USED, *OTHERS):
            await rig.store.put(rig.code_bucket, key, b"code")
        mongo = Mongo(own_mongod.uri, timeout_seconds=20)
        database = mongo.database("bot_runner")
        entities = EntityStore(database, "bots", PartitionStore(database, "bots", 10))
        await entities.create("bot", {}, {"filePath": USED})
        await mongo.close()
        yield rig


@pytest_asyncio.fixture(loop_scope="session")
async def start(
    rig: GarbageRig, own_mongod: MongoServer, s3_server: S3Server, tmp_path: Path
) -> AsyncIterator[StartMaster]:
    started: list[ServiceProcess] = []

    def launch(**settings: str) -> ServiceProcess:
        environment = {
            "MONGO_URI": own_mongod.uri,
            "NATS_URL": "",
            "MINIO_ENDPOINT": s3_server.endpoint,
            "MINIO_ACCESS_KEY_ID": s3_server.access_key,
            "MINIO_SECRET_ACCESS_KEY": s3_server.secret_key,
            "MINIO_BOTS_BUCKET": rig.code_bucket,
            "MINIO_LOGS_BUCKET": rig.logs_bucket,
            "GRPC_PORT": str(free_port()),
            "GC_INTERVAL_SECONDS": "1",
            "CODE_RETENTION_DAYS": "0.0000001",
            **settings,
        }
        arguments = [BOT_RUNNER.name, "master", "--mode", "standalone"]
        process = ServiceProcess(
            "master",
            arguments,
            environment,
            http_port=free_port(),
            log_path=tmp_path / "master.log",
            tethered=True,
        )
        process.launch()
        started.append(process)
        return process

    yield launch
    for process in started:
        await process.process.stop(grace_seconds=5)


async def test_leading_master_removes_unreferenced_code_of_its_service(rig: GarbageRig, start: StartMaster) -> None:
    start()

    async def collected() -> bool:
        return await rig.keys(rig.code_bucket) == {USED, *OTHERS}

    await eventually(collected, within_seconds=120)


async def test_dry_run_shows_in_log_what_would_be_removed(rig: GarbageRig, start: StartMaster, tmp_path: Path) -> None:
    start(GC_DRY_RUN="true")

    async def logged() -> bool:
        return ORPHAN in (tmp_path / "master.log").read_text()

    await eventually(logged, within_seconds=120)
    assert await rig.keys(rig.code_bucket) == {ORPHAN, USED, *OTHERS}


async def test_master_without_storage_works_and_logs_it(rig: GarbageRig, start: StartMaster, tmp_path: Path) -> None:
    process = start(MINIO_ACCESS_KEY_ID="", MINIO_SECRET_ACCESS_KEY="")

    await process.wait_ready()

    assert "garbage in the storage is not collected" in (tmp_path / "master.log").read_text()
