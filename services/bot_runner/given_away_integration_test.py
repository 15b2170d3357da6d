"""A segment that is given away while its containers stop: the next owner, on another host, starts none too early."""

import asyncio
from functools import partial

import pytest

from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import Lease
from libs.core.store.stop_deadlines import MARGIN_SECONDS
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.faults.deaths import Death
from tests.support.rigs.bot_rig import BotRig, bot_rig

__all__ = ["bot_rig"]

HOLD_SECONDS = 3600.0
LONG_SECONDS = 600.0
"""Of a promise whose end a test does not wait for."""
SHORT_SECONDS = 0.5


async def running_on(rig: BotRig, host: FakeHost, *bot_ids: str) -> Lease:
    """Start these bots on *host*; return the lease of its worker, which does nothing more."""
    for bot_id in bot_ids:
        await rig.deploy(bot_id)
    async with rig.owned_by(host) as owned:
        lease = owned.lease
        await eventually(lambda: all(host.alive(bot_id) for bot_id in bot_ids))
        for bot_id in bot_ids:
            await eventually(partial(has_state, rig, bot_id, "running"))
    return lease


async def has_state(rig: BotRig, bot_id: str, state: str) -> bool:
    return bool((await rig.status(bot_id)).get("state") == state)


async def give_away(rig: BotRig, host: FakeHost, lease: Lease, seconds: float) -> float:
    """Promise the ends of all containers on *host*, and cede the lease; return the deadline of the containers."""
    records = rig.records(host, lease)
    deadline = boot_seconds() + seconds
    await records.promise_ends(seconds)
    assert await records.has_promised([container.run_id for container in host.containers.values()])
    await rig.leases.cede(lease, HOLD_SECONDS)
    return deadline


async def end(rig: BotRig, host: FakeHost, lease: Lease, bot_id: str, *, is_recorded: bool = True) -> None:
    """Let a container stop on *host*, of whose end the former owner writes a record."""
    [container] = host.alive(bot_id)
    ended = await host.stop(container, 0.0)
    if is_recorded:
        await rig.records(host, lease).container_ended(ended)


async def rounds(rig: BotRig, host: FakeHost, count: int = 3) -> None:
    """Return after so many looks of the owner on *host* at runs elsewhere."""
    begun = rig.looks.writes
    await eventually(lambda: rig.looks.writes >= begun + count)


async def test_each_bot_starts_elsewhere_when_its_own_end_is_recorded(rig: BotRig) -> None:
    former, host = rig.host("former"), rig.host("next")
    lease = await running_on(rig, former, "quick", "deaf")
    await give_away(rig, former, lease, LONG_SECONDS)

    async with rig.owned_by(host):
        await rounds(rig, host)
        assert host.starts == []
        await end(rig, former, lease, "quick")
        await eventually(lambda: host.alive("quick"))
        await rounds(rig, host)
        assert [start.entity_id for start in host.starts] == ["quick"]
        await end(rig, former, lease, "deaf")
        await eventually(lambda: host.alive("deaf"))

    assert rig.doubles == []


async def test_other_bots_of_the_segment_start_at_once(rig: BotRig) -> None:
    former, host = rig.host("former"), rig.host("next")
    lease = await running_on(rig, former, "deaf")
    await give_away(rig, former, lease, LONG_SECONDS)
    await rig.deploy("new")

    async with rig.owned_by(host):
        await eventually(lambda: host.alive("new"))

    assert host.alive("deaf") == []


async def test_bot_whose_end_is_not_recorded_starts_after_its_deadline_and_a_margin(rig: BotRig) -> None:
    former, host = rig.host("former"), rig.host("next")
    lease = await running_on(rig, former, "deaf")
    deadline = await give_away(rig, former, lease, SHORT_SECONDS)

    async with rig.owned_by(host):
        await end(rig, former, lease, "deaf", is_recorded=False)
        await eventually(lambda: host.alive("deaf"))
        assert boot_seconds() > deadline + MARGIN_SECONDS

    [run] = await rig.history("deaf")
    assert (run.presumed, run.reason) == (True, "missing")


async def test_record_of_a_bot_that_was_deleted_while_it_stopped_is_closed_after_its_deadline(rig: BotRig) -> None:
    former, host = rig.host("former"), rig.host("next")
    lease = await running_on(rig, former, "deaf")
    await give_away(rig, former, lease, SHORT_SECONDS)
    await rig.entities.delete("deaf")

    async with rig.owned_by(host):
        await eventually(partial(is_closed, rig, "deaf"))


async def is_closed(rig: BotRig, bot_id: str) -> bool:
    return await rig.history(bot_id, ended=False) == []


async def test_bot_that_is_created_again_in_another_segment_waits_for_its_container_to_stop(rig: BotRig) -> None:
    former, host = rig.host("former"), rig.host("other")
    lease = await running_on(rig, former, "b")
    await give_away(rig, former, lease, LONG_SECONDS)
    await rig.create_again_in(2, "b")

    async with rig.owned_by(host, segment=2):
        await rounds(rig, host)
        assert host.starts == []
        await end(rig, former, lease, "b")
        await eventually(lambda: host.alive("b"))

    assert rig.doubles == []


@pytest.mark.parametrize(("at", "before"), [(1, False), (2, False), (3, True), (5, False)])
async def test_no_bot_runs_twice_when_a_next_owner_dies_too(rig: BotRig, at: int, before: bool) -> None:
    former, one, other = rig.host("former"), rig.host("one"), rig.host("other")
    death = Death(at, before=before)
    lease = await running_on(rig, former, "b")
    deadline = await give_away(rig, former, lease, SHORT_SECONDS)
    # As late as its init allows.
    ending = asyncio.create_task(end_at(former, "b", deadline))

    async with rig.owned_by(one, death=death) as owned:
        await eventually(death.dead.is_set)
    assert rig.doubles == []
    for container in one.alive("b"):
        # Its own worker is gone, and so is its lease.
        one.end(container.container_id, 75)
    await rig.leases.release(owned.lease)
    async with rig.owned_by(other):
        await eventually(lambda: other.alive("b"))

    await ending
    assert rig.doubles == []


async def test_no_bot_runs_twice_when_a_next_owner_gives_the_segment_away_too(rig: BotRig) -> None:
    former, one, other = rig.host("former"), rig.host("one"), rig.host("other")
    lease = await running_on(rig, former, "deaf")
    await give_away(rig, former, lease, LONG_SECONDS)
    async with rig.owned_by(one) as owned:
        await rounds(rig, one)
    await give_away(rig, one, owned.lease, SHORT_SECONDS)

    async with rig.owned_by(other):
        await rounds(rig, other)
        await asyncio.sleep(SHORT_SECONDS + MARGIN_SECONDS)
        await rounds(rig, other)
        assert other.starts == []
        await end(rig, former, lease, "deaf")
        await eventually(lambda: other.alive("deaf"))

    assert rig.doubles == []


async def end_at(host: FakeHost, bot_id: str, deadline: float) -> None:
    await asyncio.sleep(deadline - boot_seconds())
    for container in host.alive(bot_id):
        host.end(container.container_id, 75)


async def test_former_owner_closes_records_of_starts_without_a_container_when_it_promises(rig: BotRig) -> None:
    former = rig.host("former")
    lease = await running_on(rig, former, "b")
    executable = await rig.executable(lease, "b")
    records = rig.records(former, lease)
    await records.promise_ends(LONG_SECONDS)
    [container] = former.alive("b")

    assert executable.run_id != container.run_id
    assert not await records.has_promised([container.run_id, executable.run_id])
    assert await records.has_promised([])
    assert await is_closed(rig, "b")
