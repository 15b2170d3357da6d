"""A version that is rejected never stops the one that runs, and another worker runs that one too."""

import time
from typing import Any

import pytest

from libs.core.store.holds import HoldTarget
from libs.core.store.releases import Release
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.errors import (
    ArchiveRejected,
    CodeMissing,
    CodeUnavailable,
    DataMissing,
    EntrypointMissing,
    ImageUnavailable,
    StartFailed,
)
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.faults.deaths import Death
from tests.support.rigs.bot_rig import BotRig, bot_rig

__all__ = ["bot_rig"]

TOO_MUCH: Any = {"resources": {"memoryMb": 10**9}}
BAD_CODE = {
    "archive": ArchiveRejected("bad.zip", "../x", "leads out of its folder"),
    "code-missing": CodeMissing("bots", "bad.zip"),
    "data-missing": DataMissing("prices"),
    "entrypoint": EntrypointMissing("main.py", "is not in the bot's archive"),
}
SHORT, LONG = {"window_seconds": 0.2}, {"window_seconds": 3600}


async def deploy_bad(rig: BotRig, host: FakeHost, reason: str, version: str = "2", bot_id: str = "b") -> None:
    """Deploy a version that is rejected for *reason*."""
    if reason == "limits":
        await rig.deploy(bot_id, version=version, **TOO_MUCH)
        return
    host.code_faults["bad.zip"] = BAD_CODE[reason]
    await rig.deploy(bot_id, version=version, code="bad.zip")


async def runs(rig: BotRig, version: str, bot_id: str = "b") -> bool:
    """Whether a version is accepted for good, and its status says that it runs."""
    document = await rig.database["bots"].find_one({"id": bot_id}) or {}
    release = Release.of(document)
    settled = release.current is not None and release.current.name == version and release.previous is None
    return settled and (await rig.status(bot_id)).get("state") == "running"


async def says_rejected(rig: BotRig, bot_id: str = "b") -> bool:
    """Whether the bot's status says that the newest version is rejected, while something runs."""
    status = await rig.status(bot_id)
    return status.get("state") == "running" and (status.get("rejection") or {}).get("revision") == await revision(
        rig, bot_id
    )


async def revision(rig: BotRig, bot_id: str = "b") -> int:
    document = await rig.database["bots"].find_one({"id": bot_id}) or {}
    return int(document.get("revision", 0))


@pytest.mark.parametrize("reason", ["limits", *BAD_CODE])
async def test_rejected_version_leaves_container_of_version_before_running(rig: BotRig, reason: str) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "1"))
        before = host.alive("b")

        await deploy_bad(rig, host, reason)
        await eventually(lambda: says_rejected(rig))

        assert host.alive("b") == before
    status = await rig.status()
    assert status["rejection"]["reason"] == reason
    assert status["detail"].startswith("version 2 rejected: ")
    assert status["detail"].endswith("; version 1 keeps running")
    assert status["revision"] == await revision(rig)
    assert len(host.starts) == 1


@pytest.mark.parametrize("reason", ["limits", *BAD_CODE])
async def test_another_worker_runs_version_before_while_newest_is_rejected(rig: BotRig, reason: str) -> None:
    await rig.deploy(version="1", pace=7)
    one, other = rig.host("one"), rig.host("other")
    async with rig.owned_by(one) as owned:
        await eventually(lambda: runs(rig, "1"))
        first = one.alive("b")[0]
        await deploy_bad(rig, one, reason)
        await eventually(lambda: says_rejected(rig))
        lease = owned.lease
    one.die()
    await rig.leases.release(lease)
    other.code_faults = one.code_faults

    async with rig.owned_by(other):
        await eventually(lambda: other.alive("b"))
        await eventually(lambda: says_rejected(rig))

    assert [container.spec_hash for container in other.alive("b")] == [first.spec_hash]
    assert rig.doubles == []


@pytest.mark.parametrize("away", [CodeUnavailable("bots", "new.zip", "away"), ImageUnavailable("image", "away")])
async def test_version_that_cannot_be_checked_now_replaces_the_one_before_later(rig: BotRig, away: Exception) -> None:
    await rig.deploy(version="1")
    host = rig.host(code_faults={"new.zip": away})
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "1"))
        before = host.alive("b")
        await rig.deploy(version="2", code="new.zip")
        await eventually(lambda: says(rig, "version 2 waits: "))
        assert host.alive("b") == before

        del host.code_faults["new.zip"]
        await eventually(lambda: runs(rig, "2"))

    assert host.alive("b") != before
    assert (await rig.status())["detail"] == ""


async def says(rig: BotRig, text: str) -> bool:
    return str((await rig.status()).get("detail", "")).startswith(text)


async def test_mended_version_replaces_the_one_that_went_on(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "1"))
        await deploy_bad(rig, host, "archive")
        await eventually(lambda: says_rejected(rig))

        await rig.deploy(version="3")
        await eventually(lambda: runs(rig, "3"))

    status = await rig.status()
    assert (status["detail"], status["rejection"]) == ("", None)
    assert rig.doubles == []


async def test_version_that_is_refused_at_its_start_is_followed_by_the_one_before(rig: BotRig) -> None:
    """As when its code is removed after it was checked."""
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "1"))
        first = host.alive("b")[0]
        host.faults.append(CodeMissing("bots", "code.zip"))

        await rig.deploy(version="2")
        await eventually(lambda: says_rejected(rig))

    assert [container.spec_hash for container in host.alive("b")] == [first.spec_hash]
    assert (await rig.status())["rejection"]["reason"] == "code-missing"


async def test_version_that_ends_in_its_window_is_rolled_back_and_not_tried_again(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host, other = rig.host(), rig.host("other")
    async with rig.owned_by(host) as owned:
        await eventually(lambda: runs(rig, "1"))
        first = host.alive("b")[0]

        await rig.deploy(version="2", rollback=LONG)
        second = await another(host, first)
        host.end(second.container_id, 7)
        await eventually(lambda: says_rejected(rig))
        lease = owned.lease

        assert [container.spec_hash for container in host.alive("b")] == [first.spec_hash]
    status = await rig.status()
    assert status["rejection"]["reason"] == "unhealthy"
    assert "exit code 7" in status["detail"]
    assert (status["failures"], status["restarts"]) == (0, 1)

    host.die()
    await rig.leases.release(lease)
    async with rig.owned_by(other):
        await eventually(lambda: other.alive("b"))
    assert [container.spec_hash for container in other.alive("b")] == [first.spec_hash]


async def another(host: FakeHost, before: ManagedContainer) -> ManagedContainer:
    """The running container of the bot, once it is another one."""
    found = await eventually(lambda: [c for c in host.alive("b") if c.container_id != before.container_id])
    return found[0]


async def test_version_that_the_engine_cannot_start_is_rolled_back(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "1"))
        first = host.alive("b")[0]
        host.faults.append(StartFailed("the0-b", "argument list too long"))

        await rig.deploy(version="2", rollback=True)
        await eventually(lambda: says_rejected(rig))

    assert [container.spec_hash for container in host.alive("b")] == [first.spec_hash]


async def test_version_that_ends_is_not_rolled_back_unless_asked_for(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "1"))
        await rig.deploy(version="2")
        await eventually(lambda: runs(rig, "2"))
        second = host.alive("b")[0]

        host.end(second.container_id, 7)
        third = await another(host, second)

    assert third.spec_hash == second.spec_hash
    assert (await rig.status())["failures"] == 1


async def test_version_that_ends_after_its_window_is_not_rolled_back(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "1"))
        await rig.deploy(version="2", rollback=SHORT)
        await eventually(lambda: runs(rig, "2"))
        second = host.alive("b")[0]

        host.end(second.container_id, 7)
        third = await another(host, second)

    assert third.spec_hash == second.spec_hash


async def test_bot_that_is_resumed_runs_what_ran_before_it_was_killed(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "1"))
        first = host.alive("b")[0]
        await deploy_bad(rig, host, "limits")
        await eventually(lambda: says_rejected(rig))
        await rig.entities.holds.hold(HoldTarget.entity("b"))
        await eventually(lambda: in_state(rig, "killed"))
        assert host.alive("b") == []

        await rig.entities.holds.resume(HoldTarget.entity("b"))
        again = await another(host, first)

    assert again.spec_hash == first.spec_hash


async def test_bot_that_was_killed_and_changed_never_runs_what_ran_before(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "1"))
        await rig.entities.holds.hold(HoldTarget.entity("b"))
        await eventually(lambda: in_state(rig, "killed"))
        await deploy_bad(rig, host, "archive")
        await eventually(lambda: in_state(rig, "killed", at=2))

        await rig.entities.holds.resume(HoldTarget.entity("b"))
        await eventually(lambda: in_state(rig, "rejected"))

    assert host.alive("b") == []
    assert [run.revision for run in await rig.history()] == [2, 1]


async def test_bot_that_was_disabled_never_runs_what_ran_before(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "1"))
        await rig.deploy(version="2", enabled=False)
        await eventually(lambda: in_state(rig, "disabled"))

        await deploy_bad(rig, host, "limits", version="3")
        await eventually(lambda: in_state(rig, "rejected"))

    assert host.alive("b") == []
    assert len(host.starts) == 1


async def in_state(rig: BotRig, state: str, at: int | None = None) -> bool:
    status = await rig.status()
    return status.get("state") == state and at in (None, status.get("revision"))


async def test_bot_that_is_killed_while_its_new_version_is_checked_stops_at_once(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "1"))
        host.hang_checks = True
        await rig.deploy(version="2")
        await eventually(lambda: host.checks_under_way)

        await rig.entities.holds.hold(HoldTarget.entity("b"))
        await eventually(lambda: in_state(rig, "killed"))

    assert host.alive("b") == []


async def test_recreated_bot_has_no_version_of_the_deleted_bot(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host, scan_seconds=3600) as owned:
        await eventually(lambda: runs(rig, "1"))
        stale = await rig.entities.get("b")
        assert stale is not None
        await rig.create_again_in(1)

        await rig.records(host, owned.lease).keep(stale, Release.of(stale.document))

    again = await rig.database["bots"].find_one({"id": "b"})
    assert again is not None
    assert "release" not in again


async def test_earlier_owner_does_not_change_what_a_later_one_accepted(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host) as earlier:
        await eventually(lambda: runs(rig, "1"))
    async with rig.owned_by(host):
        await rig.deploy(version="2")
        await eventually(lambda: runs(rig, "2"))
        bot = await rig.entities.get("b")
        assert bot is not None

        await rig.records(host, earlier.lease).keep(bot, Release())

        assert await runs(rig, "2")


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_update_ends_with_new_version_whenever_the_worker_dies(rig: BotRig, before: bool) -> None:
    at = 1
    while await one_update(rig, Death(at, before=before), f"b{at}"):
        at += 1
    assert at > 8


async def one_update(rig: BotRig, death: Death, bot_id: str) -> bool:
    await rig.deploy(bot_id, version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "1", bot_id))
    await rig.deploy(bot_id, version="2")

    async with rig.owned_by(host, death=death):
        await eventually(lambda: dead_or(death, runs(rig, "2", bot_id)))
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "2", bot_id))

    assert len(host.alive(bot_id)) == 1
    assert rig.doubles == []
    assert [run.reason for run in await rig.history(bot_id) if run.revision == 1] in (["changed"], ["stopped"])
    await rig.entities.delete(bot_id)
    return death.reached


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_rollback_ends_with_version_before_whenever_the_worker_dies(rig: BotRig, before: bool) -> None:
    at = 1
    while await one_rollback(rig, Death(at, before=before), f"b{at}"):
        at += 1
    assert at > 8


async def one_rollback(rig: BotRig, death: Death, bot_id: str) -> bool:
    await rig.deploy(bot_id, version="1")
    host = rig.host(run_seconds=0.02, last_stays=True)
    async with rig.owned_by(host):
        await eventually(lambda: runs(rig, "1", bot_id))
        first = host.alive(bot_id)[0]
    host.exit_codes.append(7)
    await rig.deploy(bot_id, version="2", rollback=LONG)

    async with rig.owned_by(host, death=death):
        await eventually(lambda: dead_or(death, says_rejected(rig, bot_id)))
    async with rig.owned_by(host):
        await eventually(lambda: says_rejected(rig, bot_id))

    assert [container.spec_hash for container in host.alive(bot_id)] == [first.spec_hash]
    assert rig.doubles == []
    await rig.entities.delete(bot_id)
    return death.reached


async def dead_or(death: Death, condition: Any) -> bool:
    """Whether the worker is dead or *condition* holds."""
    return await condition or death.dead.is_set()


async def test_version_that_was_deployed_while_no_worker_ran_begins_without_failures(rig: BotRig) -> None:
    await rig.deploy(version="1")
    failures = {"status.failures": 9, "status.not_before": time.time() + 300, "status.state": "backing-off"}
    await rig.database["bots"].update_one({"id": "b"}, {"$set": {**failures, "status.revision": 1}})
    await rig.deploy(version="2")
    async with rig.owned_by(rig.host()):
        await eventually(lambda: runs(rig, "2"))

    assert (await rig.status())["failures"] == 0
