"""Resuming: with any stamps, and wherever the reader dies, each piece is read once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.docker_runner.logs.position import BEGINNING, SECOND_NS, Position, Resumption, day_of, nanoseconds

START = nanoseconds("2026-01-31T23:59:58.5Z")
# Pieces in the order of writing: the clock moves on by a little, nothing, or much, and each stamp may be a bit late.
LOGS = st.lists(st.tuples(st.sampled_from([0, 1, 1000, SECOND_NS // 3, 2 * SECOND_NS]), st.integers(0, 1000)))


def stamps(steps: list[tuple[int, int]]) -> list[int]:
    now, written = START, []
    for step, lateness in steps:
        now += step
        written.append(now - lateness)
    return written


def engine_since(log: list[int], position: Position) -> list[tuple[int, int]]:
    """What the engine sends: index and stamp, by a filter of microseconds."""
    since = position.mark.since_ns // 1000 * 1000
    return [(index, stamp) for index, stamp in enumerate(log) if stamp >= since]


@given(LOGS, st.lists(st.integers(1, 10)))
def test_each_piece_is_taken_once_in_order_wherever_the_reader_dies(
    steps: list[tuple[int, int]], lives: list[int]
) -> None:
    log = stamps(steps)
    taken: list[int] = []
    position = BEGINNING
    for life in [*lives, len(log)]:
        resumption = Resumption(position)
        fresh = [index for index, stamp in engine_since(log, position) if resumption.is_new(stamp)]
        # The reader dies after some pieces: only what it had written counts.
        resumption = Resumption(position)
        for index, stamp in engine_since(log, position):
            if resumption.is_new(stamp):
                taken.append(index)
                if len(fresh) > life and index == fresh[life - 1]:
                    break
        position = resumption.position

    assert taken == list(range(len(log)))


@given(LOGS)
def test_the_number_of_pieces_to_skip_stays_small(steps: list[tuple[int, int]]) -> None:
    position = BEGINNING
    for stamp in stamps(steps):
        position = position.taking(stamp)
        recent = [other for other in stamps(steps) if other >= position.newest_ns - 5 * SECOND_NS]
        assert position.mark.count <= len(recent)


def test_a_rotated_log_is_noticed_and_nothing_new_is_skipped() -> None:
    log = [START + number * SECOND_NS for number in range(20)]
    position = BEGINNING
    for stamp in log[:10]:
        position = position.taking(stamp)

    resumption = Resumption(position)
    new = [stamp for stamp in log[12:] if resumption.is_new(stamp)]

    assert new == log[12:]
    assert resumption.gap


def test_a_log_that_is_whole_shows_no_gap() -> None:
    log = [START + number * SECOND_NS for number in range(20)]
    position = BEGINNING
    for stamp in log[:10]:
        position = position.taking(stamp)

    resumption = Resumption(position)
    new = [stamp for _, stamp in engine_since(log, position) if resumption.is_new(stamp)]

    assert new == log[10:]
    assert not resumption.gap


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("1970-01-01T00:00:01Z", SECOND_NS),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T00:00:00.5Z", SECOND_NS // 2),
        ("2026-01-31T23:59:59.999999999Z", 1769903999999999999),
    ],
)
def test_timestamps_are_read_to_the_nanosecond(timestamp: str, expected: int) -> None:
    assert nanoseconds(timestamp) == expected


@pytest.mark.parametrize("timestamp", ["", "yesterday", "2026-01-31T23:59:59", "2026-01-31T23:59:59+01:00"])
def test_malformed_timestamp_is_error(timestamp: str) -> None:
    with pytest.raises(ValueError, match="no RFC 3339 timestamp"):
        nanoseconds(timestamp)


def test_a_day_is_a_utc_day() -> None:
    assert day_of(nanoseconds("2026-01-31T23:59:59.999999999Z")) == "20260131"
    assert day_of(nanoseconds("2026-02-01T00:00:00Z")) == "20260201"
