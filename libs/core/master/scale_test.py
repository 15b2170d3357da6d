"""How the master's decisions grow with the number of workers: as ratios, in CPU time, the best of some rounds."""

import time
from collections.abc import Callable

import pytest

from libs.core.coordination import HeldSegment, WorkerIdentity, WorkerState
from libs.core.leases.lease import SegmentView
from libs.core.master.assignment import decide
from libs.core.master.registry import Registry, SessionId

FEW, MANY = 1_000, 10_000


def crowd(size: int) -> Registry:
    registry = Registry(death_timeout_seconds=5.0)
    for number in range(size):
        identity = WorkerIdentity(f"w{number}", f"w{number}-1", f"h{number}")
        registry.register(SessionId(number), identity, WorkerState(), now=0.0)
    return registry


def best_seconds(measured: Callable[[], object], rounds: int = 7) -> float:
    seconds = []
    for _ in range(rounds):
        begun = time.process_time()
        measured()
        seconds.append(time.process_time() - begun)
    return min(seconds)


def heartbeat_seconds(size: int) -> float:
    registry, state = crowd(size), WorkerState(held=(HeldSegment(1, 1),), running=5)

    def all_beat() -> None:
        for number in range(size):
            registry.heartbeat(SessionId(number), state, now=1.0)
        registry.expire(now=1.0)

    return best_seconds(all_beat) / size


def assignment_seconds(size: int) -> float:
    registry = crowd(size)
    segments = [SegmentView(number, 5, None) for number in range(size)]
    return best_seconds(lambda: registry.apply(decide(segments, registry.views(), target=1)), rounds=7)


def concentrated_seconds(size: int) -> float:
    """Sixteen segments a worker, which is where all of them are."""
    registry = crowd(size // 16)
    segments = [SegmentView(number, 5, None) for number in range(size)]
    return best_seconds(lambda: registry.apply(decide(segments, registry.views())), rounds=7)


def above_target_seconds(size: int) -> float:
    """Two segments for each worker where one is the target, and no other worker to move one to."""
    registry = crowd(size // 2)
    segments = [SegmentView(number, 5, None) for number in range(size)]
    return best_seconds(lambda: registry.apply(decide(segments, registry.views(), target=1)), rounds=7)


def test_a_heartbeat_costs_the_same_among_ten_times_as_many_workers() -> None:
    assert heartbeat_seconds(MANY) < 5 * heartbeat_seconds(FEW)


def test_assigning_ten_times_as_many_segments_takes_little_more_than_ten_times_as_long() -> None:
    # A quadratic step would take a hundred times as long.
    assert assignment_seconds(MANY) < 45 * assignment_seconds(FEW)


@pytest.mark.parametrize("measured", [assignment_seconds, concentrated_seconds, above_target_seconds])
def test_ten_thousand_segments_are_decided_within_a_fraction_of_the_time_they_may_take(
    measured: Callable[[int], float],
) -> None:
    assert measured(MANY) < 0.7
