"""A schedule that is deleted and created again runs once, also while a start in its old segment is slow."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from libs.core.leases.lease import Holder
from libs.core.store.relocations import COMPACTION
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


async def order(rig: ScheduleRig, *, target: int = 2) -> None:
    """Order the schedule to move from segment 1, and give the target an owner and another entity."""
    await rig.collection.insert_one(
        {"id": "other", "segment_id": target, "revision": 1, "config": {"enabled": False}, "custom": {}}
    )
    await rig.collection.database["partitions"].insert_one({"_id": target, "bot_count": 1})
    await rig.leases.acquire(target, Holder("w-new", "i", "new"))
    entity = (await rig.state()).entity
    assert await rig.entities.relocations.order(
        entity.as_read, origin=1, target=target, revision=entity.revision, reason=COMPACTION
    )


async def test_idle_schedule_that_is_ordered_to_move_keeps_its_next_time(rig: ScheduleRig) -> None:
    old = FakeHost("old", run_seconds=None)
    await rig.deploy(schedule="0 0 0 1 1 *")
    async with owned_in(rig, 1, old) as owner:
        next_at = await eventually(lambda: next_of(rig))
        await order(rig)
        owner.wake()
        await eventually(lambda: other_segment(rig, 1))

    state = await rig.state()
    assert (state.entity.segment_id, state.next_at) == (2, next_at)
    assert state.entity.relocation is not None
    assert state.entity.relocation.moved_at is not None
    assert await rig.entities.partitions.occupied() == {2: 2}


async def next_of(rig: ScheduleRig) -> int | None:
    return (await rig.state()).next_at


async def test_schedule_that_runs_or_is_due_soon_moves_only_afterwards(rig: ScheduleRig) -> None:
    old = FakeHost("old", run_seconds=None)
    await rig.deploy(schedule="* * * * * *")
    async with owned_in(rig, 1, old) as owner:
        [container] = await eventually(lambda: old.alive("s"))
        await order(rig)
        owner.wake()
        await eventually(lambda: later_than(rig, container))
        assert (await rig.state()).entity.segment_id == 1
        assert await rig.entities.relocations.any_ordered()
        assert old.alive("s")


async def later_than(rig: ScheduleRig, container: ManagedContainer) -> bool:
    """Whether a later firing of the schedule was dropped, while *container* runs."""
    return (await rig.state()).fired_at > (await rig.state()).firing.at if (await rig.state()).firing else False  # type: ignore[union-attr]


async def test_schedule_whose_output_is_not_stored_stays(rig: ScheduleRig) -> None:
    old = FakeHost("old", run_seconds=None, logs_are_stored=False)
    await rig.deploy(schedule="0 0 0 1 1 *")
    async with owned_in(rig, 1, old) as owner:
        await eventually(lambda: next_of(rig))
        await order(rig)
        owner.wake()
        await eventually(lambda: is_refused(rig))

    assert (await rig.state()).entity.segment_id == 1


async def is_refused(rig: ScheduleRig) -> bool:
    return not await rig.entities.relocations.any_ordered()


async def test_claim_of_an_owner_that_has_not_read_the_move_is_refused(rig: ScheduleRig) -> None:
    await rig.deploy(schedule="0 0 0 1 1 *")
    before = (await rig.state()).expected
    await rig.set("s", segment_id=2)

    assert not await rig.entities.compare_and_set("s", before, {"scheduler.fired_at": 1})


async def test_schedule_with_an_active_firing_does_not_move(rig: ScheduleRig) -> None:
    await rig.deploy(schedule="0 0 0 1 1 *")
    await order(rig)
    state = await rig.state()
    await rig.set("s", **{"scheduler.firing": {"run_id": "r", "at": 1}})
    assert state.entity.relocation is not None

    moved = await rig.entities.relocations.carry_out(
        "s", state.entity.config, state.entity.relocation, {"scheduler.firing": None}
    )

    assert not moved
