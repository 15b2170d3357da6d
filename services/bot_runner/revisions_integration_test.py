"""The history of revisions that workers write, and restarts that users request."""

from datetime import UTC, datetime

import pytest

from libs.core.store.entities import RESTART_FIELD
from libs.core.store.holds import HoldTarget
from libs.core.store.revisions import Revision, RevisionStore
from libs.docker_runner.errors import ArchiveRejected
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.faults.deaths import Death
from tests.support.rigs.bot_rig import BotRig, bot_rig

__all__ = ["bot_rig"]


async def history(rig: BotRig, bot_id: str = "b") -> list[Revision]:
    entity = await rig.entities.get(bot_id)
    assert entity is not None
    return await rig.revisions.of(entity)


async def accepted(rig: BotRig, version: str) -> bool:
    found = await history(rig)
    return bool(found) and found[0].version == version and found[0].accepted


async def request_restart(rig: BotRig, request: str, bot_id: str = "b") -> None:
    await rig.entities.compare_and_set(bot_id, {}, {RESTART_FIELD: {"id": request, "at": datetime.now(UTC)}})


async def followed(rig: BotRig, request: str) -> bool:
    status = await rig.status()
    return (status.get("restart"), status.get("state")) == (request, "running")


async def test_each_accepted_version_is_in_the_history_without_its_literal_secrets(rig: BotRig) -> None:
    await rig.deploy(version="1", api_key="hush", other={"$secret": "name"}, pace=5)
    async with rig.owned_by(rig.host()):
        await eventually(lambda: accepted(rig, "1"))
        await rig.deploy(version="2")
        await eventually(lambda: accepted(rig, "2"))
        await eventually(rig.history)

    newest, first = await history(rig)
    assert (newest.revision, first.revision) == (2, 1)
    assert (first.who, first.rejection, first.code_etag) == ("ann", "", "etag")
    assert first.config == {"api_key": None, "other": {"$secret": "name"}, "pace": 5}
    assert list(first.withheld) == [("api_key",)]
    run = (await rig.history())[0]
    assert run.config_digest == first.config_digest != newest.config_digest
    assert "hush" not in str(await rig.database["revisions"].find({}).to_list())


async def test_rejected_version_is_in_the_history_with_the_reason(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host(code_faults={"bad.zip": ArchiveRejected("bad.zip", "../x", "leads out")})
    async with rig.owned_by(host):
        await eventually(lambda: accepted(rig, "1"))
        await rig.deploy(version="2", code="bad.zip")
        await eventually(lambda: rejected(rig))

    newest, first = await history(rig)
    assert (newest.accepted, "leads out" in newest.rejection) == (False, True)
    assert (first.accepted, first.rejection) == (True, "")


async def rejected(rig: BotRig) -> bool:
    return (await history(rig))[0].rejection != ""


async def test_next_owner_writes_no_revision_twice_and_keeps_what_is_known(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host, other = rig.host(), rig.host("other")
    async with rig.owned_by(host) as owned:
        await eventually(lambda: accepted(rig, "1"))
        before = await history(rig)
        lease = owned.lease
    host.die()
    await rig.leases.release(lease)
    async with rig.owned_by(other):
        await eventually(lambda: other.alive("b"))
        await eventually(lambda: accepted(rig, "1"))

    assert await history(rig) == before


async def test_late_event_that_changes_nothing_makes_no_revision(rig: BotRig) -> None:
    await rig.deploy(version="1")
    async with rig.owned_by(rig.host()):
        await eventually(lambda: accepted(rig, "1"))
        await rig.database["bots"].update_one({"id": "b"}, {"$inc": {"revision": 1}})
        await rig.deploy(version="2")
        await eventually(lambda: accepted(rig, "2"))

    assert [one.revision for one in await history(rig)] == [3, 1]


async def test_bot_that_is_created_again_has_its_own_history(rig: BotRig) -> None:
    await rig.deploy(version="1")
    async with rig.owned_by(rig.host()):
        await eventually(lambda: accepted(rig, "1"))
        await rig.entities.delete("b")
        await rig.deploy(version="other")
        await eventually(lambda: accepted(rig, "other"))

    assert [one.version for one in await history(rig)] == ["other"]
    [gone] = await rig.revisions.orphaned("bots", 10)
    assert await rig.revisions.remove(gone) == 1
    assert await rig.revisions.orphaned("bots", 10) == []
    assert [one.version for one in await history(rig)] == ["other"]


async def test_history_is_bounded_and_only_the_latest_keep_their_code(rig: BotRig) -> None:
    await rig.deploy()
    entity = await rig.entities.get("b")
    assert entity is not None
    store = RevisionStore(rig.database, kept=4, with_code=2)
    now = datetime.now(UTC)
    for number in range(1, 8):
        one = Revision("b", number, entity.document["_id"], f"k{number}", now, "", {}, [], {"filePath": "x"}, "")
        await store.write([one])
        await store.write([one])

    assert [one.revision for one in await store.of(entity)] == [7, 6, 5, 4]
    kept = await rig.database["revisions"].find({"keeps_code": True}).to_list()
    assert sorted(one["revision"] for one in kept) == [6, 7]


async def test_requested_restart_stops_gracefully_and_starts_the_same_version_once(rig: BotRig) -> None:
    rig.stop_grace_seconds = 7.0
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: accepted(rig, "1"))
        [before] = host.alive("b")
        await request_restart(rig, "r1")
        await eventually(lambda: followed(rig, "r1"))
        [after] = await eventually(lambda: [c for c in host.alive("b") if c.container_id != before.container_id])
        await rig.deploy(version="2")
        await eventually(lambda: len(host.starts) > 2)

    assert host.graces["b"][0] == 7.0
    assert after.revision == before.revision
    assert [run.reason for run in await rig.history()] == ["changed", "restarted"]
    assert len(host.starts) == 3
    assert rig.doubles == []


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", range(1, 8))
async def test_requested_restart_survives_the_owner_at_every_step(rig: BotRig, step: int, before: bool) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: accepted(rig, "1"))
        [first] = host.alive("b")
    death = Death(step, before=before)
    async with rig.owned_by(host, death=death):
        await request_restart(rig, "r1")
        await eventually(lambda: death.dead.is_set() or replaced(host, first.container_id))

    async with rig.owned_by(host):
        await eventually(lambda: replaced(host, first.container_id))
        await eventually(lambda: followed(rig, "r1"))

    assert len(host.alive("b")) == 1
    assert rig.doubles == []


def replaced(host: FakeHost, container_id: str) -> bool:
    alive = host.alive("b")
    return bool(alive) and all(container.container_id != container_id for container in alive)


async def test_restart_starts_a_bot_at_once_that_backs_off(rig: BotRig) -> None:
    await rig.deploy(version="1")
    await rig.entities.set_status(
        "b", {"state": "backing-off", "revision": 1, "failures": 9, "not_before": datetime.now(UTC).timestamp() + 250}
    )
    host = rig.host()
    async with rig.owned_by(host, scan_seconds=0.05):
        await eventually(lambda: accepted_none(rig))
        assert host.starts == []
        await request_restart(rig, "r1")
        await eventually(lambda: followed(rig, "r1"))

    assert (await rig.status())["failures"] == 0


async def accepted_none(rig: BotRig) -> bool:
    return len(await history(rig)) == 1


async def test_restart_of_a_held_bot_starts_nothing(rig: BotRig) -> None:
    await rig.deploy(version="1")
    await rig.entities.holds.hold(HoldTarget.entity("b"), graceful=True)
    await request_restart(rig, "r1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: stopped(rig))

    assert host.starts == []


async def stopped(rig: BotRig) -> bool:
    return (await rig.status()).get("state") == "stopped"
