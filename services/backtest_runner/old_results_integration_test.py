"""Which results stay, in a real bucket."""

from collections.abc import AsyncIterator

import pytest_asyncio
from pydantic import SecretStr

from libs.collector.sweep import Sweep
from libs.core.config.connection_settings import StorageSettings
from libs.core.storage.object_store import ObjectStore
from services.backtest_runner.objects import analysis_key, logs_key
from services.backtest_runner.old_results import OldResults
from tools.stack.s3 import S3Server


@pytest_asyncio.fixture(loop_scope="session")
async def store(s3_server: S3Server) -> AsyncIterator[ObjectStore]:
    settings = StorageSettings(
        endpoint=s3_server.endpoint,
        access_key=SecretStr(S3Server.access_key),
        secret_key=SecretStr(S3Server.secret_key),
    )
    store = ObjectStore(settings)
    yield store
    await store.close()


async def fill(store: ObjectStore, bucket: str, count: int) -> None:
    await store.ensure_bucket(bucket)
    for number in range(count):
        await store.put(bucket, analysis_key(f"b{9 - number}"), b"{}")
        await store.put(bucket, logs_key(f"b{9 - number}"), b"output")


async def keys(store: ObjectStore, bucket: str) -> set[str]:
    return {info.key async for info in store.list(bucket, "")}


async def test_the_newest_results_stay_with_their_output(store: ObjectStore, bucket_prefix: str) -> None:
    await fill(store, bucket_prefix, 4)
    # Where the storage's times are coarse, the order of keys decides; so it is read and not assumed.
    made = sorted([(info.modified_at, info.key) async for info in store.list(bucket_prefix, "") if "json" in info.key])
    newest = {key for _, key in made[-2:]}

    await OldResults(store, bucket_prefix, 0, 2).collect(Sweep("results"))

    outputs = {key.replace("analysis.json", "logs.txt") for key in newest}
    assert await keys(store, bucket_prefix) == newest | outputs


async def test_no_more_than_are_kept_is_left_alone(store: ObjectStore, bucket_prefix: str) -> None:
    await fill(store, bucket_prefix, 2)

    await OldResults(store, bucket_prefix, 0, 2).collect(Sweep("results"))

    assert len(await keys(store, bucket_prefix)) == 4


async def test_a_dry_run_counts_and_removes_nothing(store: ObjectStore, bucket_prefix: str) -> None:
    await fill(store, bucket_prefix, 3)
    sweep = Sweep("results", dry_run=True)

    await OldResults(store, bucket_prefix, 0, 1).collect(sweep)

    assert (sweep.count, sweep.size) == (2, 4)
    assert len(await keys(store, bucket_prefix)) == 6
