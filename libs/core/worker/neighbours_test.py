"""What a worker does about the others in its engine's folder, with real locks and scripted leases."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from libs.core.leases.lease import Holder, Lease, LeaseView, Taken
from libs.core.store.client import StoreUnavailable
from libs.core.worker.neighbours import Neighbours
from libs.core.worker.shared_folder import Offer, SharedFolder
from tests.support.eventually import eventually

A = Holder("a", "a-1", "engine", 1, "boot")
B = Holder("b", "b-1", "engine", 2, "boot")
C = Holder("c", "c-1", "engine", 3, "boot")
LEASE = Lease(7, B, 3, 1e9)


@dataclass
class ScriptedLeases:
    """The leases of dead workers, and where offered ones are."""

    left: dict[str, Sequence[LeaseView] | Exception] = field(default_factory=dict)
    taken_answer: Taken | Exception = Taken.NO
    reads: int = 0

    async def held_by(self, holder: Holder, *, timeout_seconds: float) -> Sequence[LeaseView]:
        self.reads += 1
        found = self.left.get(holder.instance_id, ())
        if isinstance(found, Exception):
            raise found
        return found

    async def taken(self, lease: Lease, *, timeout_seconds: float) -> Taken:
        if isinstance(self.taken_answer, Exception):
            raise self.taken_answer
        return self.taken_answer


@dataclass
class Owners:
    """What is asked of the owners of this worker's segments; *epochs* are those that it owns."""

    taken: list[LeaseView] = field(default_factory=list)
    epochs: dict[int, int] = field(default_factory=dict)

    def take_over(self, former: LeaseView) -> None:
        self.taken.append(former)

    def epoch_of(self, segment_id: int) -> int | None:
        return self.epochs.get(segment_id)


class Rig:
    """The worker B in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.leases, self.owners = ScriptedLeases(), Owners()
        self.can_adopt = True
        self.now = 0.0
        leases: Any = self.leases
        self.neighbours = Neighbours(
            self.shared(B), B, leases, self.owners, may_take=lambda: self.can_adopt, clock=lambda: self.now
        )

    def shared(self, holder: Holder) -> SharedFolder:
        return SharedFolder(self.folder / "shared", holder, self.folder)

    def opened(self, holder: Holder) -> SharedFolder:
        shared = self.shared(holder)
        shared.open()
        return shared

    def died(self, holder: Holder) -> None:
        self.opened(holder).close(keeps_leases=True)

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "shared").iterdir())

    async def rounds(self, count: int = 3) -> None:
        """Return when the folder was looked at so often, and the leases of a dead worker were read each time."""
        before = self.leases.reads
        await eventually(lambda: self.leases.reads >= before + count)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Neighbours]:
        assert await self.neighbours.open()
        task = asyncio.create_task(self.neighbours.run())
        try:
            yield self.neighbours
        finally:
            task.cancel()
            await asyncio.wait([task])
            self.neighbours.close(keeps_leases=False)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_leases_of_a_dead_neighbour_are_taken_over_as_they_were_read(rig: Rig) -> None:
    left = [LeaseView(7, A, 3, 2.0), LeaseView(8, A, 4, 2.0)]
    rig.leases.left["a-1"] = left
    rig.died(A)
    async with rig.running():
        await eventually(lambda: rig.owners.taken[:2] == left)


async def test_leases_of_a_living_neighbour_are_not_read(rig: Rig) -> None:
    alive = rig.opened(A)
    rig.leases.left["a-1"] = [LeaseView(7, A, 3, 2.0)]
    rig.died(C)
    async with rig.running():
        await rig.rounds()

        assert rig.owners.taken == []
    alive.close(keeps_leases=False)


async def test_nothing_is_taken_over_while_containers_cannot_be_continued(rig: Rig) -> None:
    rig.leases.left["a-1"] = [LeaseView(7, A, 3, 2.0)]
    rig.can_adopt = False
    rig.died(A)
    async with rig.running():
        await rig.rounds()
        assert rig.owners.taken == []

        rig.can_adopt = True
        await eventually(lambda: rig.owners.taken)


async def test_takeover_is_tried_again_when_the_leases_could_not_be_read(rig: Rig) -> None:
    rig.leases.left["a-1"] = StoreUnavailable("down")
    rig.died(A)
    async with rig.running():
        await rig.rounds()
        rig.now = 60.0
        await rig.rounds()
        rig.leases.left["a-1"] = [LeaseView(7, A, 3, 2.0)]

        await eventually(lambda: rig.owners.taken)


async def test_dead_worker_is_forgotten_some_seconds_after_its_last_lease(rig: Rig) -> None:
    rig.leases.left["a-1"] = [LeaseView(7, A, 3, 2.0)]
    rig.died(A)
    async with rig.running():
        await rig.rounds()
        rig.now = 60.0
        await rig.rounds()
        rig.leases.left["a-1"] = []
        await rig.rounds()
        rig.now += 9.0
        await rig.rounds()
        assert rig.names() == ["a-1.worker", "b-1.worker"]

        rig.now += 2.0
        await eventually(lambda: rig.names() == ["b-1.worker"])


async def test_offer_to_this_worker_is_taken_and_confirmed_once_the_lease_is_its_own(rig: Rig) -> None:
    giver = rig.opened(A)
    giver.offer(Offer(7, 3, "b-1"))
    async with rig.running() as neighbours:
        await eventually(lambda: rig.owners.taken)
        assert (rig.owners.taken[0].holder, rig.owners.taken[0].epoch) == (A, 3)
        rig.owners.epochs[7] = 3
        rig.died(C)
        await rig.rounds()
        assert giver.is_offered(7), "an earlier ownership of this worker"

        rig.owners.epochs[7] = 4
        neighbours.changed()
        await eventually(lambda: not giver.is_offered(7))
    giver.close(keeps_leases=False)


@pytest.mark.parametrize("leaving", [False, True])
async def test_offer_to_another_worker_and_any_offer_to_a_leaving_one_stay(rig: Rig, leaving: bool) -> None:
    giver = rig.opened(A)
    giver.offer(Offer(7, 3, "" if leaving else "c-1"))
    rig.died(C)
    async with rig.running() as neighbours:
        if leaving:
            await neighbours.leave()
            rig.owners.taken.clear()
        await rig.rounds()

        assert rig.owners.taken == []
        assert giver.is_offered(7)
    giver.close(keeps_leases=False)


async def test_lease_is_handed_over_to_a_neighbour_that_confirms_it(rig: Rig) -> None:
    taker = rig.opened(A)
    async with rig.running() as neighbours:
        handing = asyncio.create_task(neighbours.hand_over(LEASE))
        await eventually(lambda: {offer for one in taker.neighbours() for offer in one.offers} == {Offer(7, 3, "a-1")})

        taker.accept(B, 7)

        assert await handing
    taker.close(keeps_leases=False)


async def test_offer_that_the_named_neighbour_leaves_open_is_for_any_and_then_withdrawn(rig: Rig) -> None:
    taker = rig.opened(A)
    async with rig.running() as neighbours:
        handing = asyncio.create_task(neighbours.hand_over(LEASE))
        await eventually(lambda: any(one.offers for one in taker.neighbours()))
        rig.now = 1.0
        await eventually(lambda: [one.offers for one in taker.neighbours()] == [(Offer(7, 3),)])
        rig.now = 3.0

        assert not await handing
        await eventually(lambda: [one.offers for one in taker.neighbours()] == [()])
    taker.close(keeps_leases=False)


async def test_offer_ends_early_when_all_neighbours_end_too(rig: Rig) -> None:
    other = rig.opened(A)
    async with rig.running() as neighbours:
        handing = asyncio.create_task(neighbours.hand_over(LEASE))
        await eventually(lambda: any(one.offers for one in other.neighbours()))

        other.leave()
        rig.now = 1.0

        assert not await handing
    other.close(keeps_leases=False)


@pytest.mark.parametrize(
    ("answer", "is_taken"), [(Taken.BY_NEIGHBOUR, True), (Taken.NO, False), (StoreUnavailable("down"), False)]
)
async def test_offer_whose_time_is_over_counts_as_taken_only_by_the_database(
    rig: Rig, answer: Taken | Exception, is_taken: bool
) -> None:
    taker = rig.opened(A)
    rig.leases.taken_answer = answer
    async with rig.running() as neighbours:
        handing = asyncio.create_task(neighbours.hand_over(LEASE))
        await eventually(lambda: any(one.offers for one in taker.neighbours()))
        rig.now = 3.0

        assert await handing is is_taken
    taker.close(keeps_leases=False)


async def test_only_a_living_neighbour_that_stays_can_take_a_lease(rig: Rig) -> None:
    rig.died(C)
    other = rig.opened(A)
    async with rig.running() as neighbours:
        assert await neighbours.exist()

        other.leave()

        assert not await neighbours.exist()
        assert not await neighbours.hand_over(LEASE)
    other.close(keeps_leases=False)


async def test_worker_whose_folder_cannot_be_made_is_alone(tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("no folder")
    rig = Rig(tmp_path)

    assert not await rig.neighbours.open()
    assert not await rig.neighbours.exist()
    assert not await rig.neighbours.hand_over(LEASE)
    await rig.neighbours.leave()
    rig.neighbours.close(keeps_leases=False)
