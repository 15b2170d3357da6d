"""A schedule that is deleted and created again runs once, also while a start in its old segment is slow."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from libs.core.leases.lease import Holder
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.executable import Executable
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.rigs.schedule_rig import Owner, ScheduleRig, schedule_rig

__all__ = ["schedule_rig"]


@dataclass
class Slow(FakeHost):
    """A host whose starts wait until they are let go."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, executable: Executable) -> ManagedContainer:
        self.asked.set()
        await self.go.wait()
        return await super().start(executable)


@asynccontextmanager
async def owned_in(rig: ScheduleRig, segment: int, host: FakeHost) -> AsyncIterator[Owner]:
    """An owner with a live lease on *segment*."""
    await rig.collection.database["partitions"].update_one(
        {"_id": segment}, {"$setOnInsert": {"bot_count": 0}}, upsert=True
    )
    await rig.leases.acquire(segment, Holder(f"w-{host.name}", "i", host.name))
    rig.segment_id = segment
    async with rig.owned_by(host) as owner:
        yield owner


async def move(rig: ScheduleRig, segment: int) -> None:
    """Delete the schedule and create it again in another segment; no owner is woken."""
    await rig.entities.delete("s")
    await rig.deploy()
    await rig.set("s", segment_id=segment)


@pytest.mark.parametrize("is_woken", [True, False], ids=["old owner woken", "old owner not woken"])
async def test_the_new_owner_waits_for_a_start_that_is_under_way_in_the_old_segment(
    rig: ScheduleRig, is_woken: bool
) -> None:
    overlaps: list[str] = []
    hosts: list[FakeHost] = []

    def made(container: ManagedContainer) -> None:
        if sum(len(host.alive("s")) for host in hosts) > 1:
            overlaps.append(container.container_id)

    old, new = Slow("old", run_seconds=None, made=made), FakeHost("new", run_seconds=None, made=made)
    hosts += [old, new]
    await rig.deploy()
    await rig.set("s", segment_id=1)
    async with owned_in(rig, 1, old) as owner:
        await old.asked.wait()
        await move(rig, 2)
        async with owned_in(rig, 2, new):
            await eventually(lambda: has_looked_elsewhere(rig))
            assert new.starts == []
            if is_woken:
                owner.wake()
            old.go.set()

            await eventually(lambda: new.alive("s"))
            assert not old.alive("s")
    assert overlaps == []
    [first] = [run for run in await rig.history() if run.segment_id == 1]
    assert first.reason == "deleted"


async def has_looked_elsewhere(rig: ScheduleRig) -> bool:
    """Whether the second that was due when the new owner came has gone by without a run."""
    return ((await rig.state()).fired_at or 0) > 0 and (await rig.state()).firing is None


async def test_of_two_owners_that_begin_at_the_same_moment_only_the_one_with_the_document_runs(
    rig: ScheduleRig,
) -> None:
    old, new = FakeHost("old", run_seconds=None), FakeHost("new", run_seconds=None)
    await rig.deploy()
    await rig.set("s", segment_id=1)
    # The claim of the old owner is written, and it is about to record its run when the schedule moves.
    async with owned_in(rig, 1, old) as owner:
        begin = owner.kit.records.begin
        moved = asyncio.Event()

        async def late(firing: object, executable: Executable) -> str | None:
            await moved.wait()
            return await begin(firing, executable)  # type: ignore[arg-type]

        owner.kit.records.begin = late  # type: ignore[method-assign]
        await eventually(lambda: claimed(rig))
        await move(rig, 2)
        async with owned_in(rig, 2, new):
            await eventually(lambda: new.alive("s"))
            moved.set()
            await eventually(lambda: ended_in(rig, 1))
            assert old.starts == []
            assert new.alive("s")


async def claimed(rig: ScheduleRig) -> bool:
    return (await rig.state()).firing is not None


async def ended_in(rig: ScheduleRig, segment: int) -> bool:
    return [run.reason for run in await rig.history() if run.segment_id == segment] == ["deleted"]


async def test_recorded_run_that_never_started_delays_no_run_once_its_segment_has_an_owner(
    rig: ScheduleRig,
) -> None:
    old, new = Slow("old", run_seconds=None), FakeHost("new", run_seconds=None)
    await rig.deploy()
    await rig.set("s", segment_id=1)
    async with owned_in(rig, 1, old):
        await old.asked.wait()
    await move(rig, 2)

    async with owned_in(rig, 1, old), owned_in(rig, 2, new):
        await eventually(lambda: new.alive("s"))
    [left] = [run for run in await rig.history() if run.segment_id == 1]
    assert (left.reason, left.presumed) == ("missing", True)


async def test_schedule_whose_placement_changes_moves_when_its_run_has_ended(rig: ScheduleRig) -> None:
    old, new = FakeHost("old", run_seconds=None), FakeHost("new", run_seconds=None)
    await rig.deploy()
    async with owned_in(rig, 1, old) as owner:
        [container] = await eventually(lambda: old.alive("s"))
        await rig.deploy(placement={"egress": "a"})
        owner.wake()
        assert (await rig.state()).entity.segment_id == 1
        old.end(container.container_id)

        segment = await eventually(lambda: other_segment(rig, 1))
        assert await rig.entities.partitions.placement_of(segment) == "egress=a"
        async with owned_in(rig, segment, new):
            await eventually(lambda: new.alive("s"))
    assert len(old.starts) == 1
    [first] = [run for run in await rig.history() if run.segment_id == 1]
    assert first.exit_code == 0


async def test_idle_schedule_of_another_placement_moves_and_is_not_fired_before(rig: ScheduleRig) -> None:
    old = FakeHost("old", run_seconds=None)
    await rig.deploy(schedule="0 0 0 1 1 *")
    await rig.deploy(schedule="* * * * * *", placement=["egress=a"])
    async with owned_in(rig, 1, old):
        segment = await eventually(lambda: other_segment(rig, 1))

    assert old.starts == []
    assert await rig.entities.partitions.occupied() == {segment: 1}


async def other_segment(rig: ScheduleRig, segment: int) -> int:
    """The segment of the schedule once it is not *segment*; 0 before."""
    found = (await rig.state()).entity.segment_id
    return found if found != segment else 0
