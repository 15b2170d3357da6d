"""Saved state stays as long as a document names it."""

from collections.abc import AsyncIterator

import pytest_asyncio

from libs.collector.states import UnreferencedState
from libs.collector.sweep import Sweep
from libs.core.process.service import BOT_RUNNER, BOT_SCHEDULER
from libs.core.store.code_references import CodeReferences
from libs.docker_runner.state.keys import copy_key, new_version_key
from tests.support.rigs.garbage_rig import GarbageRig, garbage_rig
from tools.stack.s3 import S3Server

HOUR_SECONDS = 3600.0


@pytest_asyncio.fixture(loop_scope="session")
async def rig(mongo_uri: str, s3_server: S3Server, bucket_prefix: str, database_name: str) -> AsyncIterator[GarbageRig]:
    async with garbage_rig(mongo_uri, s3_server, bucket_prefix, database_name[-20:]) as rig:
        yield rig


async def saved(rig: GarbageRig, entity_id: str, *, named: bool = True, service: str = "bot-runner") -> set[str]:
    """Save a version of a bot's state; *named* by its document."""
    key = new_version_key(service, entity_id, 1, 1)
    for one in (key, copy_key(entity_id)):
        await rig.store.put(rig.results_bucket, one, b"state")
    if named:
        versions = {"versions": [{"key": key}]}
        await rig.database(BOT_RUNNER)["bots"].insert_one({"id": entity_id, "segment_id": 1, "saved_state": versions})
    return {key, copy_key(entity_id)}


async def left(rig: GarbageRig) -> set[str]:
    """Collect, and return what is left."""
    references = CodeReferences((rig.database(BOT_RUNNER), "bots"))
    garbage = UnreferencedState(BOT_RUNNER, rig.store, rig.results_bucket, references, page=2)
    await garbage.collect(Sweep("state", per_second=1e6))
    return {info.key async for info in rig.store.list(rig.results_bucket, "")}


async def test_state_of_removed_bots_is_removed_and_that_of_others_stays(rig: GarbageRig) -> None:
    kept = await saved(rig, "a") | await saved(rig, "a/b")
    for entity_id in ("a/c", "b", "c"):
        await saved(rig, entity_id, named=False)
    rig.store.ahead_seconds = 2 * HOUR_SECONDS

    assert await left(rig) == kept


async def test_version_that_no_document_names_yet_stays_for_an_hour(rig: GarbageRig) -> None:
    kept = await saved(rig, "a", named=False)
    rig.store.ahead_seconds = HOUR_SECONDS / 2

    assert await left(rig) == kept


async def test_state_of_another_service_stays_with_its_copy(rig: GarbageRig) -> None:
    kept = await saved(rig, "a", named=False, service=BOT_SCHEDULER.name)
    await saved(rig, "a", named=False)
    rig.store.ahead_seconds = 2 * HOUR_SECONDS

    assert await left(rig) == kept
