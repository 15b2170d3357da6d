"""The reported outcome of a deploy, over a real MongoDB with owners that run bots."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from libs.core.store.holds import HoldTarget
from libs.docker_runner.errors import ArchiveRejected, CodeUnavailable
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.rigs.bot_rig import BotRig, bot_rig
from tools.bots.outcome import BotNotRunning, HealthWatch, NotInTime, Settled

__all__ = ["bot_rig"]

PATIENT_SECONDS = 60.0
ENDED = "exit code 7|it ended and was restarted"
LONG = {"window_seconds": 3600}


def watch(rig: BotRig, *, window_seconds: float = 0.3, start_seconds: float = PATIENT_SECONDS) -> HealthWatch:
    return HealthWatch(rig.entities, rig.runs, "b", "", window_seconds=window_seconds, start_seconds=start_seconds)


@asynccontextmanager
async def watched(rig: BotRig, window_seconds: float = PATIENT_SECONDS) -> AsyncIterator[asyncio.Task[Settled]]:
    """A watch beside the block, which must have ended it."""
    task = asyncio.create_task(watch(rig, window_seconds=window_seconds).until_healthy(), name="watch")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_bot_that_runs_for_its_window_is_healthy(rig: BotRig) -> None:
    await rig.deploy(version="1")
    async with rig.owned_by(rig.host()):
        settled = await watch(rig).until_healthy()

    assert (settled.state, settled.healthy_seconds, settled.worker) == ("running", 0.3, "w-host")


async def test_bot_that_ends_in_its_window_is_not_healthy(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host), watched(rig) as outcome:
        first = (await eventually(lambda: host.alive("b")))[0]
        await eventually(lambda: is_running(rig))
        host.end(first.container_id, 7)

        with pytest.raises(BotNotRunning, match=ENDED):
            await outcome


async def test_old_version_that_still_runs_does_not_count_for_the_new_one(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await watch(rig).until_healthy()
        host.hang_checks = True
        await rig.deploy(version="2")
        await eventually(lambda: host.checks_under_way)

        with pytest.raises(NotInTime, match="does not run within"):
            await watch(rig, start_seconds=1.5).until_healthy()


async def test_end_of_the_old_version_is_no_failure_of_the_new_one(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host(code_faults={"new.zip": CodeUnavailable("bots", "new.zip", "away")})
    async with rig.owned_by(host):
        await watch(rig).until_healthy()
        first = host.alive("b")[0]
        await rig.deploy(version="2", code="new.zip")
        async with watched(rig, window_seconds=0.3) as outcome:
            host.end(first.container_id, 7)
            await eventually(lambda: others(host, first.container_id))

            del host.code_faults["new.zip"]
            assert (await outcome).state == "running"


async def test_end_of_a_container_that_a_new_revision_left_running_is_a_failure(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await watch(rig).until_healthy()
        await rig.deploy(version="1")
        async with watched(rig) as outcome:
            await eventually(lambda: runs_revision(rig, 2))
            host.end(host.alive("b")[0].container_id, 7)

            with pytest.raises(BotNotRunning, match=ENDED):
                await outcome


async def runs_revision(rig: BotRig, revision: int) -> bool:
    status = await rig.status()
    return status.get("state") == "running" and status.get("running_revision") == revision


@pytest.mark.parametrize("first", [True, False], ids=["first version", "update"])
async def test_rejected_version_fails_and_message_names_running_version(rig: BotRig, first: bool) -> None:
    host = rig.host(code_faults={"bad.zip": ArchiveRejected("bad.zip", "", "is broken")})
    await rig.deploy(version="1", code="bad.zip" if first else "code.zip")
    async with rig.owned_by(host):
        if not first:
            await watch(rig).until_healthy()
            await rig.deploy(version="2", code="bad.zip")

        with pytest.raises(BotNotRunning, match="is broken") as raised:
            await watch(rig).until_healthy()

    assert ("version 1 keeps running" in str(raised.value)) is not first


async def test_rolled_back_version_fails_and_message_names_restored_version(rig: BotRig) -> None:
    await rig.deploy(version="1")
    host = rig.host()
    async with rig.owned_by(host):
        await watch(rig).until_healthy()
        first = host.alive("b")[0]
        await rig.deploy(version="2", rollback=LONG)
        async with watched(rig) as outcome:
            second = (await eventually(lambda: others(host, first.container_id)))[0]
            await eventually(lambda: is_running(rig))
            host.end(second, 7)

            with pytest.raises(BotNotRunning, match=r"\(unhealthy\).*exit code 7.*version 1 was restored"):
                await outcome


def others(host: FakeHost, container_id: str) -> list[str]:
    return [c.container_id for c in host.alive("b") if c.container_id != container_id]


async def is_running(rig: BotRig) -> bool:
    status = await rig.status()
    return status.get("state") == "running" and status.get("running_revision") == status.get("revision")


@pytest.mark.parametrize("state", ["killed", "disabled"])
async def test_bot_at_rest_is_as_it_should_be(rig: BotRig, state: str) -> None:
    await rig.deploy(version="1", enabled=state != "disabled")
    if state == "killed":
        await rig.entities.holds.hold(HoldTarget.entity("b"))
    async with rig.owned_by(rig.host()):
        settled = await watch(rig).until_healthy()

    assert (settled.state, settled.healthy_seconds) == (state, 0.0)


async def test_bot_without_worker_times_out(rig: BotRig) -> None:
    await rig.deploy(version="1")

    with pytest.raises(NotInTime, match="it is not started in segment 1"):
        await watch(rig, start_seconds=0.2).until_healthy()
