"""The shortage of room across workers, and its text."""

import math

import pytest

from libs.core.room import MIB, Missing, Need, Room, missing


def room(memory_bytes: int, cpus: float = 1.0) -> Room:
    return Room(Need(1024 * MIB, 8.0), Need(memory_bytes, cpus), Need(512 * MIB))


def test_the_roomiest_worker_is_the_one_where_least_is_missing() -> None:
    rooms = {"a": room(100 * MIB), "b": room(130 * MIB), "c": room(-5 * MIB)}

    found = missing(Need(512 * MIB), rooms)

    assert found == Missing(Need(512 * MIB), "b", Need(130 * MIB, 1.0))
    assert found.memory_bytes == 382 * MIB
    assert found.cpus == 0


def test_roomiest_worker_has_most_room_of_sufficient_ones() -> None:
    found = missing(Need(10), {"a": room(20), "b": room(30)})

    assert found is not None
    assert (found.worker_id, found.memory_bytes) == ("b", 0)


def test_shortage_is_unknown_without_rooms() -> None:
    assert missing(Need(10), {}) is None


def test_a_need_is_read_as_it_was_stored() -> None:
    assert Need.from_document(Need(512, 0.5).to_document()) == Need(512, 0.5)


@pytest.mark.parametrize(
    "stored", [None, "512", {}, {"memory_bytes": "512", "cpus": 1}, {"memory_bytes": math.inf, "cpus": 1.0}]
)
def test_malformed_need_is_read_as_none(stored: object) -> None:
    assert Need.from_document(stored) is None


@pytest.mark.parametrize(
    ("need", "free", "said"),
    [
        (Need(512 * MIB), Need(130 * MIB), "needs 512 MiB, the roomiest worker has 130 MiB (w)"),
        # What is needed is rounded up, what there is rounded down.
        (Need(512 * MIB + 1), Need(131 * MIB - 1), "needs 513 MiB, the roomiest worker has 130 MiB (w)"),
        (Need(MIB), Need(-MIB), "needs 1 MiB, the roomiest worker has 0 MiB (w)"),
        (Need(MIB, 2.0), Need(MIB, 0.5), "needs 2 CPUs, the roomiest worker has 0.5 (w)"),
        (Need(MIB, 0.0), Need(MIB, -1.0), "needs 1 MiB, the roomiest worker has 1 MiB (w)"),
        (
            Need(2 * MIB, 2.0),
            Need(MIB, -1.0),
            "needs 2 MiB, the roomiest worker has 1 MiB and needs 2 CPUs, the roomiest worker has 0 (w)",
        ),
    ],
)
def test_shortage_text_has_whole_units(need: Need, free: Need, said: str) -> None:
    assert str(Missing(need, "w", free)) == said
