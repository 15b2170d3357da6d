"""MongoDB's clock against the boot-time clock, as values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.core.leases.store_clock import TOLERANCE_SECONDS, Difference, StoreClock

LIFE_SECONDS = 5.0
EPOCH = 1_800_000_000.0


def answer(at: float, ahead: float = 0.0, *, takes: float = 0.002) -> Difference:
    """What an answer shows that arrives at *at* from a MongoDB whose clock is *ahead* of what it was first."""
    return Difference.of(at - takes, at, EPOCH + at - takes / 2 + ahead)


def clock_after(*answers: Difference) -> StoreClock:
    clock = StoreClock(LIFE_SECONDS)
    for one in answers:
        clock.note(one)
    return clock


def test_clock_without_an_answer_leaves_lapsed_leases_alone_and_has_no_limit() -> None:
    clock = StoreClock(LIFE_SECONDS)

    assert clock.steady_in_seconds(1_000.0) == LIFE_SECONDS
    assert clock.latest_store_seconds(1_000.0) is None


def test_clock_is_steady_one_life_after_the_first_answer() -> None:
    clock = clock_after(answer(100.0), answer(101.0))

    assert clock.steady_in_seconds(101.0) == pytest.approx(4.0)
    assert clock.steady_in_seconds(105.0) <= 0


@pytest.mark.parametrize("ahead", [0.4, -0.4, 10.0, -3600.0])
def test_jump_in_either_direction_is_reported_and_restarts_the_lifetime(ahead: float) -> None:
    clock = clock_after(*(answer(100.0 + n) for n in range(20)))

    jump = clock.note(answer(120.0, ahead))

    assert jump == pytest.approx(ahead, abs=0.01)
    assert clock.jumps == 1
    assert clock.steady_in_seconds(121.0) == pytest.approx(4.0)


def test_jump_is_seen_once_and_the_new_difference_is_the_known_one() -> None:
    clock = clock_after(*(answer(100.0 + n) for n in range(20)), answer(120.0, 10.0))

    assert [clock.note(answer(121.0 + n, 10.0)) for n in range(20)] == [0.0] * 20
    assert clock.steady_in_seconds(130.0) < 0


@pytest.mark.parametrize("step", [0.026, -0.026])
def test_clock_that_creeps_beyond_the_tolerance_within_two_lives_counts_as_jumped(step: float) -> None:
    clock = clock_after(*(answer(100.0 + n, n * step) for n in range(10)))
    assert clock.jumps == 0

    assert clock.note(answer(110.0, 10 * step)) == pytest.approx(10 * step, abs=0.01)


def test_clock_that_creeps_as_hosts_do_never_counts_as_jumped() -> None:
    clock = clock_after(*(answer(100.0 + n, 0.0005 * n) for n in range(2_000)))

    assert clock.jumps == 0


def test_jump_that_happened_while_nothing_answered_is_seen_by_the_next_answer() -> None:
    clock = clock_after(*(answer(100.0 + n) for n in range(20)))

    assert clock.note(answer(200.0, 10.0)) == pytest.approx(10.0, abs=0.01)


def test_slow_answer_is_no_jump_and_teaches_nothing() -> None:
    clock = clock_after(answer(100.0), answer(101.0))
    last = clock.last

    assert clock.note(answer(103.0, 0.0, takes=1.5)) == 0.0
    assert clock.last is last
    assert clock_after(answer(100.0, takes=0.5)).steady_in_seconds(200.0) == LIFE_SECONDS


def test_slow_answer_still_shows_a_jump_that_is_longer_than_itself() -> None:
    clock = clock_after(answer(100.0), answer(101.0))

    assert clock.note(answer(103.0, 10.0, takes=1.0)) > 9.0


def test_latest_time_of_mongodb_is_the_known_difference_and_the_tolerance() -> None:
    clock = clock_after(answer(100.0))

    latest = clock.latest_store_seconds(102.0)

    assert latest == pytest.approx(EPOCH + 102.0 + TOLERANCE_SECONDS, abs=0.01)
    assert clock.latest_store_seconds(100.0 + 2 * LIFE_SECONDS + 0.1) is None


def test_slow_answer_bounds_the_time_of_mongodb_while_there_is_no_better_one() -> None:
    clock = clock_after(answer(100.0, takes=1.0))
    assert clock.latest_store_seconds(102.0) == pytest.approx(EPOCH + 102.5 + TOLERANCE_SECONDS, abs=0.01)

    clock.note(answer(103.0))
    clock.note(answer(104.0, takes=1.0))
    assert clock.latest_store_seconds(104.0) == pytest.approx(EPOCH + 104.0 + TOLERANCE_SECONDS, abs=0.01)

    clock.note(answer(110.0, takes=1.0))
    assert clock.latest_store_seconds(110.0) == pytest.approx(EPOCH + 110.5 + TOLERANCE_SECONDS, abs=0.01)


def test_what_is_known_stays_small_however_many_answers_come() -> None:
    clock = clock_after(*(answer(100.0 + n / 1000) for n in range(50_000)))

    assert len(clock._known) <= 41


@given(
    st.lists(st.tuples(st.floats(0.001, 3.0), st.floats(0.0001, 2.0), st.floats(0.0, 1.0)), min_size=1, max_size=60),
)
def test_steady_clock_never_jumps_whatever_answers_take(steps: list[tuple[float, float, float]]) -> None:
    clock, now = StoreClock(LIFE_SECONDS), 100.0
    for gap, takes, share in steps:
        sent = now + gap
        now = sent + takes
        shown = int((EPOCH + sent + share * takes) * 1000) / 1000
        assert clock.note(Difference.of(sent, now, shown)) == 0.0
        latest = clock.latest_store_seconds(now)
        assert latest is None or latest >= EPOCH + now


def test_time_of_mongodb_is_unknown_before_the_first_answer() -> None:
    assert StoreClock(LIFE_SECONDS).store_seconds(100.0) is None


def test_time_of_mongodb_is_that_of_the_fastest_answers() -> None:
    # Alone, the slow answer would be 0.12 s off.
    slow = Difference.of(100.0, 100.24, EPOCH + 100.0)
    clock = clock_after(answer(99.0), slow, answer(101.0))

    assert clock.store_seconds(110.0) == pytest.approx(EPOCH + 110.0, abs=0.002)


def test_time_of_mongodb_follows_a_jump() -> None:
    clock = clock_after(answer(100.0), answer(101.0), answer(102.0, 3600.0))

    assert clock.store_seconds(110.0) == pytest.approx(EPOCH + 3710.0, abs=0.002)


def test_time_of_mongodb_is_estimated_by_a_slow_answer_when_there_is_no_other() -> None:
    assert clock_after(answer(100.0, takes=2.0)).store_seconds(100.0) == pytest.approx(EPOCH + 100.0, abs=0.01)
