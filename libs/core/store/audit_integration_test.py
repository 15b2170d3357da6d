"""The audit record: entries are stored, found and expire; without a database nothing fails."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest_asyncio
from structlog.testing import capture_logs

from libs.core.store.audit import Action, AuditEntry, AuditFilter, AuditStore, Way
from libs.core.store.client import Mongo

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest_asyncio.fixture(loop_scope="session")
async def mongo(mongo_uri: str) -> AsyncIterator[Mongo]:
    mongo = Mongo(mongo_uri)
    yield mongo
    await mongo.close()


def entry(number: int, who: str = "ann", action: Action = Action.UPDATED, target: str = "b") -> AuditEntry:
    return AuditEntry(NOON + timedelta(minutes=number), action, who, Way.EVENT, target)


async def test_entries_are_found_by_target_name_action_and_time_the_latest_first(
    mongo: Mongo, database_name: str
) -> None:
    audit = AuditStore(mongo.database(database_name))
    await audit.ensure_indexes()
    entries = [entry(0), entry(1, who="bob"), entry(2, action=Action.KILLED), entry(3, target="c")]
    await audit.record(entries)

    assert await audit.list() == entries[::-1]
    assert await audit.list(limit=1) == entries[3:]
    assert await audit.list(AuditFilter(who="bob")) == [entries[1]]
    assert await audit.list(AuditFilter(action=Action.KILLED)) == [entries[2]]
    assert await audit.list(AuditFilter(target="c")) == [entries[3]]
    assert await audit.list(AuditFilter(before=entries[1].at)) == [entries[0]]


async def test_entry_expires_after_the_days_of_the_setting(mongo: Mongo, database_name: str) -> None:
    database = mongo.database(database_name)
    audit = AuditStore(database, keep_days=7)
    await audit.ensure_indexes()
    await audit.record([entry(0)])

    document = await database["audit"].find_one({}) or {}
    indexes = await database["audit"].index_information()
    assert document["expires_at"].replace(tzinfo=UTC) == NOON + timedelta(days=7)
    assert indexes["expires_at_ttl"]["expireAfterSeconds"] == 0


async def test_reader_who_asks_again_within_a_minute_has_one_entry(mongo: Mongo, database_name: str) -> None:
    audit = AuditStore(mongo.database(database_name))
    for who, target in [("ann", "b"), ("ann", "b"), ("bob", "b"), ("ann", "c")]:
        await audit.output_read(who, target)

    found = await audit.list()
    assert sorted((one.who, one.target) for one in found) == [("ann", "b"), ("ann", "c"), ("bob", "b")]
    assert {one.action for one in found} == {Action.READ_OUTPUT}


async def test_texts_that_cannot_be_stored_are_cut_and_repaired(mongo: Mongo, database_name: str) -> None:
    audit = AuditStore(mongo.database(database_name))
    await audit.record([entry(0, who="\ud800", target="x" * 5000)])

    [found] = await audit.list()
    assert (found.who, len(found.target)) == ("?", 500)


async def test_database_that_is_away_raises_nothing_and_leaves_the_entry_in_the_log() -> None:
    mongo = Mongo("mongodb://127.0.0.1:1/?directConnection=true", timeout_seconds=0.2)
    try:
        with capture_logs() as lines:
            await AuditStore(mongo.database("x")).record([entry(0)])
    finally:
        await mongo.close()

    assert [line["event"] for line in lines] == ["audit", "audit entries are only in the log"]
