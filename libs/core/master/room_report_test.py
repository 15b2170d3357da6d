"""What waits for room, by what workers report, and whose room counts."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from libs.core.coordination import HeldSegment, WorkerIdentity, WorkerState
from libs.core.master.registry import SessionId, Worker
from libs.core.master.room_report import RoomReport, room_report, rooms_of
from libs.core.master.status import MasterSnapshot, worker_status
from libs.core.room import MIB, Demand, Missing, Need, Room
from libs.core.store.cordons import Cordon

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NEED = Need(512 * MIB)


def worker(name: str, free_mib: int | None, host: str = "", **state: object) -> Worker:
    room = Room(Need(900 * MIB), Need(free_mib * MIB), NEED) if free_mib is not None else None
    reported = replace(WorkerState(room=room), **state)  # type: ignore[arg-type]
    return Worker(SessionId(1), WorkerIdentity(name, name, host or name), reported, 1, 0.0, 0.0)


def waiting(name: str, free_mib: int | None, *needs: Need, **more: str) -> Worker:
    held = tuple(HeldSegment(number, 1, Demand(need, need)) for number, need in enumerate(needs))
    return worker(name, free_mib, held=held, **more)


def cordoned(view: Worker) -> Worker:
    view.cordon = Cordon(view.identity.worker_id, False, NOW)
    return view


def snapshot(*workers: Worker) -> MasterSnapshot:
    return MasterSnapshot("m", True, "m", 1, 0.0, "", [], 16, [], [worker_status(one, 0.0) for one in workers])


def test_report_is_empty_when_nothing_waits() -> None:
    assert room_report([worker("a", 130)]) == RoomReport()
    assert str(RoomReport()) == ""


def test_report_names_largest_need_and_roomiest_worker() -> None:
    report = room_report([waiting("a", 10, Need(MIB), NEED), worker("b", 130), worker("c", 120)])

    assert report == RoomReport(2, Missing(NEED, "b", Need(130 * MIB)))
    assert str(report) == (
        "entities in 2 segments wait for room: the largest needs 512 MiB, the roomiest worker has 130 MiB (b)"
    )


def test_report_counts_waiting_segments_while_room_is_unknown() -> None:
    assert str(room_report([waiting("a", None, NEED)])) == "entities in 1 segment wait for room"


@pytest.mark.parametrize(
    "other",
    [
        worker("b", 130, draining=True),
        worker("b", 130, engine_lost=True),
        worker("b", 130, impediment="no database"),
        cordoned(worker("b", 130)),
    ],
    ids=["draining", "engine lost", "hindered", "cordoned"],
)
def test_the_room_of_a_worker_that_takes_nothing_does_not_count(other: Worker) -> None:
    alone = waiting("a", 10, NEED)

    assert room_report([alone, other]).missing == Missing(NEED, "a", Need(10 * MIB))
    assert set(rooms_of(snapshot(alone, other))) == {"a"}


def test_a_cordoned_worker_has_room_for_what_waits_on_it() -> None:
    alone = cordoned(waiting("a", 10, NEED))

    assert room_report([alone]).missing == Missing(NEED, "a", Need(10 * MIB))
    assert set(rooms_of(snapshot(alone))) == {"a"}


def test_room_of_engine_is_minimum_of_its_workers_reports() -> None:
    old, new = worker("a", 900, "h"), waiting("b", 388, NEED, host="h")

    assert room_report([old, new]).missing == Missing(NEED, "a", Need(388 * MIB))
    assert rooms_of(snapshot(old, new))["a"].free == Need(388 * MIB)
