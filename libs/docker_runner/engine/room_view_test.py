"""The view of an engine's room: what counts, who is woken, and what old looks may not spoil."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from libs.core.aio.wake import Wake
from libs.core.room import MIB, Need, Room
from libs.docker_runner.containers.container import ContainerState, Label, ManagedContainer, from_labels
from libs.docker_runner.engine.answers import EngineInfo
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.engine.helper_container import GUARD_SERVICE
from libs.docker_runner.engine.room import Priority, RoomRequest, RoomRules
from libs.docker_runner.engine.room_view import EngineRoom
from libs.docker_runner.errors import EngineUnavailable

ENTITY = Need(512 * MIB)
TOTAL = Need(4096 * MIB, 4.0)


class FakeEngine:
    """An engine that lists what it is given; *gate* holds back an answer that is worked out already."""

    def __init__(self, *containers: ManagedContainer) -> None:
        self.containers = list(containers)
        self.unlabelled: dict[str, Need] = {}
        self.inspections: list[str] = []
        self.infos = 0
        self.gates: list[asyncio.Event] = []
        self.away = False

    async def info(self) -> EngineInfo:
        self.infos += 1
        return EngineInfo("", "", (), TOTAL)

    async def list(self, labels: Mapping[str, str], *, ended: bool = True) -> list[ManagedContainer]:
        assert dict(labels) == {Label.MANAGED: "true"}
        answer = list(self.containers)
        if self.gates:
            await self.gates.pop(0).wait()
        return answer

    async def limits(self, container: str) -> Need | None:
        self.inspections.append(container)
        if self.away:
            raise EngineUnavailable("inspect", "away")
        return self.unlabelled.get(container)


def container(
    name: str,
    mib: int | None = 512,
    state: ContainerState = ContainerState.RUNNING,
    labels: Mapping[str, str] | None = None,
    age_seconds: float = 0.0,
) -> ManagedContainer:
    labels = labels or {}
    if mib is not None:
        labels = {Label.MEMORY: str(mib * MIB), Label.CPUS: "0.5", **labels}
    created_at = datetime.now(UTC) - timedelta(seconds=age_seconds)
    return from_labels(labels, container_id=f"id-{name}", name=name, state=state, created_at=created_at)


def room_of(engine: FakeEngine) -> EngineRoom:
    return EngineRoom(engine, RoomRules(memory_overcommit=1.0, cpu_overcommit=1.0, reserve=0.0), ENTITY)


def request(name: str = "new", mib: int = 512) -> RoomRequest:
    return RoomRequest(name, Need(mib * MIB))


def free_mib(room: EngineRoom) -> int:
    found = room.room(Priority.BOT)
    assert found is not None
    return found.free.memory_bytes // MIB


def died(name: str) -> ContainerEvent:
    return ContainerEvent(EventKind.DIED, datetime.now(UTC), container_id=f"id-{name}")


async def test_before_the_first_look_nothing_is_known_and_nothing_refused() -> None:
    room = room_of(FakeEngine())

    assert room.room(Priority.BOT) is None
    assert room.shortage(request(mib=1_000_000)) is None


async def test_room_is_what_the_limits_of_all_containers_leave() -> None:
    room = room_of(FakeEngine(container("a"), container("b", 1024)))
    await room.refresh()

    assert room.room(Priority.BOT) == Room(TOTAL, Need(2560 * MIB, 3.0), ENTITY)


async def test_standby_counts_beside_the_container_of_its_bot() -> None:
    standby = container("a-standby", labels={Label.STANDBY: "a"})
    room = room_of(FakeEngine(container("a"), standby, container("b")))
    await room.refresh()

    assert room.room(Priority.BOT) == Room(TOTAL, Need(2560 * MIB, 2.5), ENTITY)


async def test_capacity_is_requested_once_and_updated_by_notes() -> None:
    engine = FakeEngine()
    room = room_of(engine)
    await room.refresh()
    await room.refresh()
    room.has(Need(1024 * MIB, 1.0))
    await room.refresh()

    assert (engine.infos, free_mib(room)) == (1, 1024)


@pytest.mark.parametrize(
    ("age_seconds", "counted_mib"), [(0, 512), (200, 512), (400, 0)], ids=["new", "slow", "left by a worker that died"]
)
async def test_a_container_that_is_made_counts_until_its_start_does_not_come_any_more(
    age_seconds: float, counted_mib: int
) -> None:
    room = room_of(FakeEngine(container("a", state=ContainerState.CREATED, age_seconds=age_seconds)))
    await room.refresh()

    assert free_mib(room) == 4096 - counted_mib


async def test_a_container_that_runs_for_long_counts_and_a_dead_one_and_a_helper_do_not() -> None:
    helper = container("helper", 64, labels={Label.SERVICE: GUARD_SERVICE})
    dead = container("dead", state=ContainerState.EXITED)
    room = room_of(FakeEngine(container("a", age_seconds=1e6), dead, helper))
    await room.refresh()

    assert free_mib(room) == 3584


async def test_the_room_of_a_dead_container_is_free_while_the_engine_still_lists_it() -> None:
    room = room_of(FakeEngine(container("a")))
    room.note(died("a"))
    await room.refresh()
    assert free_mib(room) == 4096

    room.note(ContainerEvent(EventKind.STARTED, datetime.now(UTC), container_id="id-a"))
    await room.refresh()
    assert free_mib(room) == 3584


async def test_a_container_without_labels_is_inspected_once() -> None:
    engine = FakeEngine(container("old", None), container("new"))
    engine.unlabelled["id-old"] = Need(100 * MIB, 1.5)
    room = room_of(engine)
    for _ in range(3):
        await room.refresh()

    assert (free_mib(room), engine.inspections) == (4096 - 612, ["id-old"])
    engine.containers = []
    await room.refresh()
    engine.containers = [container("old", None)]
    await room.refresh()
    assert engine.inspections == ["id-old"] * 2


@pytest.mark.parametrize("labels", [{Label.MEMORY: "much"}, {Label.MEMORY: "-1"}, {Label.MEMORY: "0"}, {}])
async def test_a_container_without_a_limit_counts_as_a_usual_one(labels: dict[str, str]) -> None:
    engine = FakeEngine(container("a", None, labels=labels))
    engine.unlabelled["id-a"] = Need()
    room = room_of(engine)
    await room.refresh()

    assert free_mib(room) == 3584


async def test_limits_that_cannot_be_asked_for_now_count_as_usual_and_are_asked_for_again() -> None:
    engine = FakeEngine(container("old", None))
    engine.unlabelled["id-old"] = Need(100 * MIB)
    engine.away = True
    room = room_of(engine)
    await room.refresh()
    assert free_mib(room) == 3584

    engine.away = False
    await room.refresh()
    assert free_mib(room) == 3996


async def test_a_container_that_goes_while_it_is_inspected_takes_nothing() -> None:
    room = room_of(FakeEngine(container("gone", None)))
    await room.refresh()

    assert free_mib(room) == 4096


async def test_an_expected_start_takes_room_once_before_and_after_it_is_listed() -> None:
    engine = FakeEngine(container("a", 3072))
    room = room_of(engine)
    await room.refresh()
    with room.expecting(request("b")):
        assert room.shortage(request("c")) is None
        with room.expecting(request("c")):
            assert room.shortage(request("d")) is not None
            assert room.shortage(request("b")) is None
            engine.containers += [container("b"), container("c")]
            await room.refresh()
            assert room.shortage(request("d")) is not None
            engine.containers.pop()
            await room.refresh()
        assert room.shortage(request("d")) is None


async def test_granted_request_reserves_room_until_next_refresh() -> None:
    room = room_of(FakeEngine(container("a", 3584)))
    await room.refresh()
    room.grant(request("b"))
    assert room.shortage(request("c")) is not None

    await room.refresh()
    assert room.shortage(request("c")) is None


async def test_an_expectation_that_is_repeated_counts_once() -> None:
    room = room_of(FakeEngine(container("a", 3072)))
    await room.refresh()
    for _ in range(3):
        room.expect(request("b"))

    assert room.shortage(request("c")) is None
    room.settle(request("b"))
    room.settle(request("b"))
    assert room.shortage(request("c", 1024)) is None
    assert room.shortage(request("c", 1025)) is not None


async def test_room_that_is_expected_already_is_kept_beyond_an_inner_block() -> None:
    room = room_of(FakeEngine())
    await room.refresh()
    room.expect(request())
    with room.expecting(request()):
        pass

    reservations = room.reservations()
    assert reservations is not None
    assert list(reservations.by_name) == ["new"]


async def test_waiting_entity_is_woken_by_more_room_only() -> None:
    engine, wake = FakeEngine(container("a"), container("b")), Wake()
    room = room_of(engine)
    await room.refresh()
    with room.waiting_for(request(), wake):
        engine.containers.append(container("c"))
        await room.refresh()
        assert not await wake.wait_at_most(0)

        engine.containers.pop()
        await room.refresh()
        assert await wake.wait_at_most(0)
        assert room.waiting == 1
    assert room.waiting == 0


async def test_waiting_entity_is_woken_by_failed_start_of_another() -> None:
    room, wake = room_of(FakeEngine()), Wake()
    await room.refresh()
    with room.waiting_for(request(), wake):
        with room.expecting(request("other")):
            pass
        assert await wake.wait_at_most(0)


async def test_an_older_look_that_answers_late_does_not_replace_a_newer_one() -> None:
    engine = FakeEngine()
    room = room_of(engine)
    gate = asyncio.Event()
    engine.gates.append(gate)
    older = asyncio.create_task(room.refresh())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    engine.containers.append(container("a"))
    await room.refresh()
    gate.set()
    await older

    assert free_mib(room) == 3584


async def test_a_thousand_may_ask_at_once_without_holding_up_the_loop() -> None:
    room = room_of(FakeEngine(*(container(f"c{number}", 1) for number in range(300))))
    room.has(Need(2**50, 2.0**20))
    await room.refresh()

    # The fixture that watches the loop fails the test if this takes long.
    for number in range(1000):
        asked = request(f"n{number}")
        assert room.shortage(asked) is None
        room.expect(asked)
