"""What may be seen of entities, in a real MongoDB."""

from collections.abc import AsyncIterator
from dataclasses import asdict

import pytest
import pytest_asyncio

from libs.core.lease import Holder
from libs.core.store.client import Database, Mongo
from libs.core.store.entities import Entity
from libs.core.store.entity_views import EntityFilter, EntityViews
from libs.core.store.holds import HoldStore, HoldTarget
from libs.core.store.leases import LeaseStore
from libs.core.store.processes import KnownProcess, ProcessStore

IDS = ["../x", "a/b", "a/c", "a\U0001f680", "b" * 300, "z"]


@pytest_asyncio.fixture(loop_scope="session")
async def database(mongo_uri: str, database_name: str) -> AsyncIterator[Database]:
    mongo = Mongo(mongo_uri, timeout_seconds=20)
    yield mongo.database(database_name)
    await mongo.close()


async def insert(database: Database, entity_id: str, **fields: object) -> None:
    document = {"id": entity_id, "segment_id": 1, "config": {"api_key": "hunter2", "owner": "alice"}, "custom": {}}
    await database["bots"].insert_one({**document, **fields})


async def test_all_are_listed_once_page_by_page(database: Database) -> None:
    for entity_id in IDS:
        await insert(database, entity_id)
    views = EntityViews(database, "bots")

    found: list[str] = []
    while page := await views.find(EntityFilter(), after=found[-1] if found else None, limit=2):
        found += [entity.id for entity in page]

    assert found == sorted(IDS, key=str.encode)


async def test_they_are_found_by_prefix_segment_and_state(database: Database) -> None:
    for number, entity_id in enumerate(IDS):
        status = {"state": "running"} if number % 2 else {}
        await insert(database, entity_id, segment_id=number, status=status)
    views = EntityViews(database, "bots")

    async def ids(wanted: EntityFilter) -> list[str]:
        return [entity.id for entity in await views.find(wanted)]

    assert await ids(EntityFilter(id_prefix="a")) == ["a/b", "a/c", "a\U0001f680"]
    assert await ids(EntityFilter(id_prefix=".*")) == []
    assert await ids(EntityFilter(segment=2)) == ["a/c"]
    assert await ids(EntityFilter(state="running", id_prefix="a")) == ["a/b", "a\U0001f680"]
    assert await views.counts() == {"running": 3, "waiting": 3}


@pytest.mark.parametrize("enabled", [True, False, 0, 0.0, 1, "false", " FALSE ", "0", "no", "", None, [], {"a": 1}])
async def test_what_is_enabled_is_what_runs(database: Database, enabled: object) -> None:
    await insert(database, "b1", config={"enabled": enabled})

    view = await EntityViews(database, "bots").get("b1")

    expected = Entity.of({"id": "b1", "config": {"enabled": enabled}}).enabled
    assert view is not None
    assert (view.enabled, view.state) == (expected, "waiting" if expected else "off")


async def test_nothing_of_a_config_is_told_though_a_selector_names_it(database: Database) -> None:
    await insert(database, "b1", status={"state": "running", "restarts": 3, "detail": "it runs"})
    await insert(database, "b2", custom={"config": {"author": "bob"}})
    await HoldStore(database).hold(HoldTarget.selector("config.owner=alice"), by="carol", reason="audit")
    views = EntityViews(database, "bots")

    view = await views.get("b1")

    assert view is not None
    assert view.hold is not None
    assert (view.hold.target, view.hold.by, view.restarts) == ("config.owner=…", "carol", 3)
    assert not [secret for secret in ("hunter2", "alice", "api_key") if secret in str(asdict(view))]


async def test_an_old_document_with_strange_values_is_told_as_far_as_it_goes(database: Database) -> None:
    strange = {"segment_id": None, "config": "none", "custom": 7, "status": "fine", "next_execution_time": "soon"}
    await insert(database, "b1", **strange)

    view = await EntityViews(database, "bots").get("b1")

    assert view is not None
    assert (view.segment, view.state, view.version, view.next_execution_time) == (None, "waiting", "", None)


async def test_the_owner_of_a_segment_is_found_while_its_lease_lives(database: Database) -> None:
    await database["partitions"].insert_one({"_id": 1, "bot_count": 1})
    processes, leases = ProcessStore(database), LeaseStore(database, 5.0)
    await processes.ensure_indexes()
    known = KnownProcess("w1", "worker", "host", ("10.0.0.1", "fd00::1"), 8080, "a token")
    await processes.seen(known)
    assert await processes.owner(1) is None

    lease = await leases.acquire(1, Holder("w1", "i", "engine"))

    owner = await processes.owner(1)
    assert owner == known
    assert "a token" not in repr(owner)
    assert owner.urls == ["http://10.0.0.1:8080", "http://[fd00::1]:8080"]
    await leases.release(lease)
    assert await processes.owner(1) is None
