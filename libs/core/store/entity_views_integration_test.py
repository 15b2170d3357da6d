"""What may be seen of entities, in a real MongoDB."""

from dataclasses import asdict

import pytest

from libs.core.leases.lease import Holder
from libs.core.store.client import Database
from libs.core.store.entities import Entity
from libs.core.store.entity_counts import EntityCounts
from libs.core.store.entity_views import EntityFilter, EntityViews
from libs.core.store.holds import HoldStore, HoldTarget
from libs.core.store.leases import LeaseStore
from libs.core.store.processes import KnownProcess, ProcessStore
from libs.core.store.shown_state import UNOWNED_STATES

IDS = ["../x", "a/b", "a/c", "a\U0001f680", "b" * 300, "z"]


async def insert(database: Database, entity_id: str, **fields: object) -> None:
    document = {"id": entity_id, "segment_id": 1, "config": {"api_key": "hunter2", "owner": "alice"}, "custom": {}}
    await database["bots"].insert_one({**document, **fields})


async def own(database: Database, *segment_ids: int, worker: str = "w1", life_seconds: float = 600.0) -> None:
    """Let a worker have these segments."""
    leases = LeaseStore(database, life_seconds)
    for segment_id in segment_ids:
        await database["partitions"].update_one({"_id": segment_id}, {"$set": {"bot_count": 1}}, upsert=True)
        await leases.acquire(segment_id, Holder(worker, "i", "engine"))


async def lose(database: Database, *segment_ids: int, seconds: float = 7200.0) -> None:
    """Let the leases of these segments have run out so long ago."""
    ended = {"$set": {"lease.expires_at": {"$subtract": ["$$NOW", round(seconds * 1000)]}}}
    await database["partitions"].update_many({"_id": {"$in": list(segment_ids)}}, [ended])


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
        await own(database, number)
    views = EntityViews(database, "bots")

    async def ids(wanted: EntityFilter) -> list[str]:
        return [entity.id for entity in await views.find(wanted)]

    assert await ids(EntityFilter(id_prefix="a")) == ["a/b", "a/c", "a\U0001f680"]
    assert await ids(EntityFilter(id_prefix=".*")) == []
    assert await ids(EntityFilter(segment=2)) == ["a/c"]
    assert await ids(EntityFilter(state="running", id_prefix="a")) == ["a/b", "a\U0001f680"]
    assert await views.counts() == {"running": 3, "waiting": 3}


@pytest.mark.parametrize("enabled", [True, False, 0, 0.0, 1, "false", " FALSE ", "0", "no", "", None, [], {"a": 1}])
async def test_view_of_enabled_matches_what_runs(database: Database, enabled: object) -> None:
    await insert(database, "b1", config={"enabled": enabled})

    view = await EntityViews(database, "bots").get("b1")

    expected = Entity.of({"id": "b1", "config": {"enabled": enabled}}).enabled
    assert view is not None
    assert (view.enabled, view.state) == (expected, "waiting" if expected else "off")


@pytest.mark.parametrize("above", [True, False, 0, "false", None])
@pytest.mark.parametrize("enabled", [True, False])
async def test_view_prefers_top_level_enabled_like_the_owner(database: Database, enabled: bool, above: object) -> None:
    await insert(database, "b1", config={"enabled": enabled}, enabled=above)

    view = await EntityViews(database, "bots").get("b1")

    assert view is not None
    assert view.enabled == Entity.of({"id": "b1", "config": {"enabled": enabled}, "enabled": above}).enabled


async def test_view_hides_config_used_by_selector(database: Database) -> None:
    await insert(database, "b1", status={"state": "running", "restarts": 3, "detail": "it runs"})
    await insert(database, "b2", custom={"config": {"author": "bob"}})
    await HoldStore(database).hold(HoldTarget.selector("config.owner=alice"), by="carol", reason="audit")
    views = EntityViews(database, "bots")

    view = await views.get("b1")

    assert view is not None
    assert view.hold is not None
    assert (view.hold.target, view.hold.by, view.restarts) == ("config.owner=…", "carol", 3)
    assert not [secret for secret in ("hunter2", "alice", "api_key") if secret in str(asdict(view))]


async def test_malformed_values_of_old_document_are_skipped_in_view(database: Database) -> None:
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


async def test_public_url_of_a_process_goes_before_its_addresses(database: Database) -> None:
    processes = ProcessStore(database)
    known = KnownProcess("m1", "master", "host", ("172.18.0.9",), 8080, public_url="http://localhost:8081")

    await processes.seen(known)

    master = await processes.find("master", "m1")
    assert master == known
    assert master.urls == ["http://localhost:8081", "http://172.18.0.9:8080"]


STATES = {
    "held": {"state": "running", "worker": "w1"},
    "ran": {"state": "running", "worker": "w1"},
    "started": {"state": "starting", "worker": "w1"},
    "backed-off": {"state": "backing-off"},
    "rejected": {"state": "rejected"},
    "new": {},
}


async def segment_of_all(database: Database, segment_id: int, prefix: str = "") -> None:
    """One entity for each of STATES, and one that is switched off."""
    for name, status in STATES.items():
        await insert(database, f"{prefix}{name}", segment_id=segment_id, status=status)
    off = {"config": {"enabled": False}, "status": {"state": "running", "worker": "w1"}}
    await insert(database, f"{prefix}off", segment_id=segment_id, **off)


async def by_state(views: EntityViews) -> dict[str, list[str]]:
    """The ids by state, as each is found on its own; the same as all together, counted, and filtered."""
    found: dict[str, list[str]] = {}
    for view in await views.find(EntityFilter()):
        single = await views.get(view.id)
        assert single is not None
        assert single.state == view.state
        found.setdefault(view.state, []).append(view.id)
    assert await views.counts() == {state: len(ids) for state, ids in found.items()}
    for state, ids in found.items():
        pages: list[str] = []
        while page := await views.find(EntityFilter(state=state), after=pages[-1] if pages else None, limit=2):
            pages += [view.id for view in page]
        assert pages == ids
    return found


async def test_lost_worker_leaves_no_entity_shown_as_running(database: Database) -> None:
    await segment_of_all(database, 1)
    await own(database, 1)
    views = EntityViews(database, "bots")
    assert (await by_state(views))["running"] == ["held", "off", "ran"]

    await lose(database, 1)

    assert await by_state(views) == {
        "unknown": ["held", "ran", "started"],
        "off": ["off"],
        "rejected": ["rejected"],
        "waiting": ["backed-off", "new"],
    }
    ran = await views.get("ran")
    assert ran is not None
    assert (ran.state_reason, ran.worker) == ("worker lost 2 h ago", "w1")


@pytest.mark.parametrize(
    ("target", "held"),
    [
        (HoldTarget.entity("held"), ["held"]),
        (HoldTarget.selector("id=held"), ["held"]),
        (HoldTarget.selector("config.owner=alice"), [name for name in sorted([*STATES, "off"]) if name != "off"]),
        (HoldTarget.everything(), ["backed-off", "held", "new", "off", "ran", "rejected", "started"]),
    ],
)
@pytest.mark.parametrize(("graceful", "state"), [(True, "stopped"), (False, "killed")])
async def test_held_entity_without_owner_is_down(
    database: Database, target: HoldTarget, held: list[str], graceful: bool, state: str
) -> None:
    await segment_of_all(database, 1)
    await own(database, 1)
    await lose(database, 1)
    await HoldStore(database).hold(target, graceful=graceful)

    assert (await by_state(EntityViews(database, "bots")))[state] == held


async def test_an_own_kill_counts_beside_a_stop_of_all(database: Database) -> None:
    await segment_of_all(database, 1)
    await HoldStore(database).hold(HoldTarget.everything(), graceful=True)
    await HoldStore(database).hold(HoldTarget.entity("ran"))

    found = await by_state(EntityViews(database, "bots"))

    assert (found["killed"], len(found["stopped"])) == (["ran"], 6)


async def test_entity_of_former_worker_is_unknown_until_owner_reports(database: Database) -> None:
    await insert(database, "b1", status={"state": "running", "worker": "w1"})
    await own(database, 1, worker="w2")
    views = EntityViews(database, "bots")
    assert (await by_state(views)) == {"unknown": ["b1"]}

    await database["bots"].update_one({"id": "b1"}, {"$set": {"status.worker": "w2"}})

    assert (await by_state(views)) == {"running": ["b1"]}


async def test_a_schedule_that_waits_is_shown_as_it_is_meant(database: Database) -> None:
    waits = {"status": {"state": "waiting", "worker": "w1"}}
    await insert(database, "waits", **waits)
    await insert(database, "paused", scheduler={"paused": {"by": "alice"}}, **waits)
    await insert(database, "resumed", scheduler={"paused": None}, **waits)
    await insert(database, "off", config={"enabled": False}, **waits)
    await insert(database, "killed", **waits)
    await HoldStore(database).hold(HoldTarget.entity("killed"))
    expected = {"waiting": ["resumed", "waits"], "paused": ["paused"], "off": ["off"], "killed": ["killed"]}
    views = EntityViews(database, "bots")
    assert await by_state(views) == expected

    await own(database, 1)

    assert await by_state(views) == expected


async def test_segment_without_owner_does_not_affect_others(database: Database) -> None:
    await segment_of_all(database, 1, "a-")
    await segment_of_all(database, 2, "b-")
    await insert(database, "homeless", segment_id=None)
    await own(database, 1, 2)
    await lose(database, 2)

    found = await by_state(EntityViews(database, "bots"))

    assert found["running"] == ["a-held", "a-off", "a-ran"]
    assert found["unknown"] == ["b-held", "b-ran", "b-started"]
    assert found["waiting"] == ["a-new", "b-backed-off", "b-new", "homeless"]


async def test_entities_without_an_owner_are_counted_with_every_state(database: Database) -> None:
    await segment_of_all(database, 1)
    await segment_of_all(database, 2, "b-")
    await own(database, 1, 2)
    counts = EntityCounts(database, "bots")
    assert await counts.unowned() == dict.fromkeys(UNOWNED_STATES, 0)

    await lose(database, 2)

    assert await counts.unowned() == {
        **dict.fromkeys(UNOWNED_STATES, 0),
        "unknown": 3,
        "off": 1,
        "rejected": 1,
        "waiting": 2,
    }
