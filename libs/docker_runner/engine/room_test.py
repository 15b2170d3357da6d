"""The arithmetic of an engine's room."""

from types import MappingProxyType

import pytest

from libs.core.room import MIB, Demand, Need, Room
from libs.docker_runner.engine.room import Priority, Reservations, RoomRequest, RoomRules, Shortage

ENTITY = Need(512 * MIB)


def need(mib: int, cpus: float = 0.0) -> Need:
    return Need(mib * MIB, cpus)


def request(mib: int, cpus: float = 0.0, priority: Priority = Priority.BOT, name: str = "new") -> RoomRequest:
    return RoomRequest(name, need(mib, cpus), priority)


def reservations(total_mib: int, *used_mib: int, cpus: float = 0.0, reserve_mib: int = 0) -> Reservations:
    by_name = MappingProxyType({f"c{number}": need(mib) for number, mib in enumerate(used_mib)})
    return Reservations(need(total_mib, cpus), ENTITY, need(reserve_mib), by_name)


def test_the_total_is_the_engines_memory_and_processors_times_overcommitment() -> None:
    rules = RoomRules(memory_overcommit=2.0, cpu_overcommit=3.0)

    assert rules.total(need(1000, 4.0)) == need(2000, 12.0)


def test_the_operators_numbers_replace_the_engines() -> None:
    rules = RoomRules(memory_bytes=100 * MIB, cpus=1.5, memory_overcommit=1.0, cpu_overcommit=1.0)

    assert rules.total(need(1000, 4.0)) == need(100, 1.5)


def test_engine_of_unknown_capacity_admits_containers() -> None:
    room = Reservations(RoomRules().total(Need()), ENTITY, need(0), {"other": need(512, 1.0)})

    assert room.shortage(request(512, 4.0)) is None


@pytest.mark.parametrize("engine_mib", [1950, 3900, 7900])
def test_by_default_thirty_bots_of_the_usual_limit_fit_on_a_laptop(engine_mib: int) -> None:
    room = Reservations(RoomRules().total(need(engine_mib, 2.0)), ENTITY, need(0))
    for number in range(30):
        asked = request(512, name=f"b{number}")
        assert room.shortage(asked) is None
        room = room.granted(asked)


def test_the_last_place_is_granted_once() -> None:
    room = reservations(1024, 512)

    assert room.shortage(request(512)) is None
    assert room.granted(request(512)).shortage(request(512, name="other")) == Shortage(need(512), need(0), need(0))


def test_request_of_one_byte_too_much_is_refused() -> None:
    room = reservations(1024, 512)

    assert room.shortage(RoomRequest("new", Need(512 * MIB + 1))) is not None


@pytest.mark.parametrize("priority", Priority)
def test_an_idle_engine_admits_one_whatever_it_needs(priority: Priority) -> None:
    idle = reservations(256, cpus=1.0, reserve_mib=512)
    asked = request(4096, 8.0, priority)

    assert idle.shortage(asked) is None
    assert idle.granted(asked).shortage(request(64, name="other")) is not None


def test_a_container_is_not_in_its_own_way() -> None:
    room = reservations(1024, 512, 512)

    assert room.shortage(request(512, name="c1")) is None
    assert room.shortage(request(513, name="c1")) is not None
    assert room.shortage(request(512)) is not None


def test_a_running_container_keeps_its_place_when_limits_exceed_the_room() -> None:
    room = reservations(512, 512, 512)

    assert room.free() == need(-512)
    assert room.shortage(request(512, name="c0")) is None
    assert room.shortage(request(64)) is not None


@pytest.mark.parametrize(
    ("free_mib", "admitted"),
    [(1536, "bot schedule backtest"), (1024, "bot schedule"), (512, "bot"), (511, "")],
)
def test_reserves_are_left_free_by_priority(free_mib: int, admitted: str) -> None:
    room = reservations(5120, 5120 - free_mib, reserve_mib=512)

    granted = [p.name.lower() for p in Priority if room.shortage(request(512, priority=p)) is None]

    assert granted == admitted.split()


@pytest.mark.parametrize(("total_mib", "reserve_mib"), [(512, 0), (5119, 0), (5120, 512), (10239, 512), (10240, 1024)])
def test_a_reserve_is_whole_entities_so_that_a_small_engine_keeps_nothing_back(
    total_mib: int, reserve_mib: int
) -> None:
    assert RoomRules(reserve=0.1).one_reserve(need(total_mib, 5.0), ENTITY) == need(reserve_mib)


def test_a_reserve_of_processors_is_whole_entities_too() -> None:
    assert RoomRules(reserve=0.1).one_reserve(need(0, 25.0), Need(512 * MIB, 0.5)).cpus == 2.5
    assert RoomRules(reserve=0.1).one_reserve(need(0, 25.0), ENTITY).cpus == 2.0


def test_processors_count_only_for_containers_with_a_limit_of_them() -> None:
    room = Reservations(need(4096, 2.0), ENTITY, need(0), {"c0": need(64, 2.5)})

    assert room.shortage(request(64)) is None
    assert room.shortage(request(64, 0.1)) is not None
    assert room.room(Priority.BOT).fits(need(64))


def test_many_small_processor_limits_fill_the_processors_exactly() -> None:
    by_name = {f"c{number}": need(64, 0.1) for number in range(9)}
    room = Reservations(need(4096, 1.0), ENTITY, need(0), by_name)

    assert room.shortage(request(64, 0.1)) is None
    assert room.granted(request(64, 0.1)).shortage(request(64, 0.01, name="other")) is not None


def test_reported_room_is_the_share_of_the_service() -> None:
    room = reservations(5120, 1024, cpus=4.0, reserve_mib=512)

    assert room.room(Priority.BOT) == Room(need(5120, 4.0), need(4096, 4.0), ENTITY)
    assert room.room(Priority.BACKTEST) == Room(need(5120, 4.0), need(3072, 4.0), ENTITY)


@pytest.mark.parametrize(
    ("shortage", "text"),
    [
        (Shortage(need(512), need(130), need(0)), "needs 512 MiB, the engine has 130 MiB free"),
        (Shortage(need(512), need(-512), need(0)), "needs 512 MiB, the engine has 0 MiB free"),
        (Shortage(Need(512 * MIB + 1), need(512), need(0)), "needs 513 MiB, the engine has 512 MiB free"),
        (
            Shortage(need(512), need(600), need(512), Priority.SCHEDULE),
            "needs 512 MiB, the engine has 600 MiB free, 512 MiB of it kept for bots",
        ),
        (
            Shortage(need(512), need(600), need(1024), Priority.BACKTEST),
            "needs 512 MiB, the engine has 600 MiB free, 600 MiB of it kept for bots and schedules",
        ),
        (Shortage(need(64, 2.0), need(600, 0.5), need(0)), "needs 2 CPUs, the engine has 0.5 CPUs free"),
        (
            Shortage(need(512, 2.0), need(6, 0.5), need(0)),
            "needs 512 MiB, the engine has 6 MiB free and needs 2 CPUs, the engine has 0.5 CPUs free",
        ),
    ],
)
def test_shortage_text_names_needed_and_free_room(shortage: Shortage, text: str) -> None:
    assert str(shortage) == text


def test_a_demand_is_the_sum_of_needs_and_the_largest_that_waits() -> None:
    waiting = [need(512), need(1024, 1.0), need(256, 4.0)]

    assert Demand.of([need(512), need(1024, 1.0)], waiting) == Demand(need(1536, 1.0), need(1024, 1.0))
    assert Demand.of([], []) == Demand()
