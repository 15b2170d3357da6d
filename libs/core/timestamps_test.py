"""Reading RFC 3339 times."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.core.timestamps import WrittenTime, parse_rfc3339


@pytest.mark.parametrize(
    ("text", "nanoseconds", "precision"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000, 1_000_000_000),
        ("1970-01-01T00:00:00.5Z", 500_000_000, 100_000_000),
        ("1970-01-01T00:00:00.123Z", 123_000_000, 1_000_000),
        ("1970-01-01T00:00:00.123456789Z", 123_456_789, 1),
        ("1970-01-01T00:00:00.1234567891234Z", 123_456_789, 1),
        ("1970-01-01T02:00:00+02:00", 0, 1_000_000_000),
        ("1969-12-31T16:00:00-0800", 0, 1_000_000_000),
        ("1970-01-01t00:00:00z", 0, 1_000_000_000),
        ("1970-01-01 00:00:00", 0, 1_000_000_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000_000, 1_000_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000_000, 1_000_000_000),
    ],
)
def test_times_are_read_with_their_offset_and_precision(text: str, nanoseconds: int, precision: int) -> None:
    assert parse_rfc3339(text) == WrittenTime(nanoseconds, precision)


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2025-02-30T00:00:00Z", "2025-02-29T00:00:00Z", "2025-13-01T00:00:00Z", "2025-01-01",
     "2025-01-01T24:00:00Z", "2025-01-01T00:60:00Z", "٢٠٢٥-01-01T00:00:00Z", "1735689600"],
)  # fmt: skip
def test_malformed_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an RFC 3339 time|does not exist"):
        parse_rfc3339(text)


@given(
    st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),  # noqa: DTZ001 - the zone is drawn
    st.integers(min_value=-14 * 60, max_value=14 * 60),
)
def test_isoformat_is_read_back(moment: datetime, offset_minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    microseconds = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert parse_rfc3339(aware.isoformat()).nanoseconds == microseconds * 1000
