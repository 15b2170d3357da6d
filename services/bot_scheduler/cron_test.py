"""Expected times are worked out by hand, from calendars and the zones' published rules, and never by a cron library."""

import calendar
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bot_scheduler.cron import CronInvalid, Every, parse, upcoming


def at(text: str) -> int:
    """Unix seconds of an ISO time; UTC unless it has an offset."""
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def firings(expression: str, after: str, count: int, timezone: str | None = None) -> list[str]:
    """The next firings as ISO times in the schedule's own zone."""
    schedule = parse(expression, timezone)
    times = upcoming(schedule, at(after))
    return [datetime.fromtimestamp(next(times), schedule.zone).isoformat() for _ in range(count)]


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("*/15 * * * *", "2024-05-06T10:01:00", ["10:15", "10:30", "10:45", "11:00"]),
        ("5-20/5 10 * * *", "2024-05-06T00:00:00", ["10:05", "10:10", "10:15", "10:20"]),
        ("50/4 10 * * *", "2024-05-06T00:00:00", ["10:50", "10:54", "10:58"]),
        ("1,3,59 23 * * *", "2024-05-06T00:00:00", ["23:01", "23:03", "23:59"]),
        ("@hourly", "2024-05-06T21:30:00", ["22:00", "23:00"]),
    ],
)
def test_within_a_day(expression: str, after: str, expected: list[str]) -> None:
    assert firings(expression, after, len(expected)) == [f"2024-05-06T{time}:00+00:00" for time in expected]


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        # Month ends: only months that have the day; L is each month's own last one.
        ("0 0 31 * *", "2023-01-31T00:00:00", ["2023-03-31", "2023-05-31", "2023-07-31", "2023-08-31", "2023-10-31"]),
        ("0 0 30 * *", "2023-01-30T00:00:00", ["2023-03-30", "2023-04-30", "2023-05-30"]),
        ("0 0 L * *", "2024-01-31T00:00:00", ["2024-02-29", "2024-03-31", "2024-04-30"]),
        ("0 0 15,L 2 *", "2023-01-01T00:00:00", ["2023-02-15", "2023-02-28", "2024-02-15", "2024-02-29"]),
        # Leap years: 2100 is none, though 4 divides it; 2000 was one.
        ("0 0 29 2 *", "2023-01-01T00:00:00", ["2024-02-29", "2028-02-29"]),
        ("0 0 29 2 *", "2096-02-29T00:00:00", ["2104-02-29"]),
        ("0 0 29 2 *", "1996-02-29T00:00:00", ["2000-02-29", "2004-02-29"]),
        ("0 0 29-31 2 *", "2023-01-01T00:00:00", ["2024-02-29", "2028-02-29"]),
        # Names in any case. 2024-05-06 was a Monday.
        ("0 0 * jan,JUL *", "2024-07-30T00:00:00", ["2024-07-31", "2025-01-01"]),
        ("0 0 * * MON-fri", "2024-05-09T00:00:00", ["2024-05-10", "2024-05-13", "2024-05-14"]),
        ("0 0 * * sat,SUN", "2024-05-06T00:00:00", ["2024-05-11", "2024-05-12", "2024-05-18"]),
        ("0 0 * * 0", "2024-05-06T00:00:00", ["2024-05-12", "2024-05-19"]),
        ("0 0 * * 7", "2024-05-06T00:00:00", ["2024-05-12", "2024-05-19"]),
        ("0 0 * * 5-7", "2024-05-06T00:00:00", ["2024-05-10", "2024-05-11", "2024-05-12", "2024-05-17"]),
        ("0 0 * * fri-sun", "2024-05-06T00:00:00", ["2024-05-10", "2024-05-11", "2024-05-12", "2024-05-17"]),
        # Sunday, Tuesday, Thursday and Saturday: a step over the week begins on Sunday.
        ("0 0 * * */2", "2024-05-06T00:00:00", ["2024-05-07", "2024-05-09", "2024-05-11", "2024-05-12", "2024-05-14"]),
        # Day of month and day of week: both restricted, either matches.
        ("0 0 13 * FRI", "2024-08-31T00:00:00", ["2024-09-06", "2024-09-13", "2024-09-20", "2024-09-27", "2024-10-04"]),
        ("0 0 1,15 * 1", "2024-05-06T00:00:00", ["2024-05-13", "2024-05-15", "2024-05-20", "2024-05-27", "2024-06-01"]),
        ("0 0 31 2 1", "2024-01-30T00:00:00", ["2024-02-05", "2024-02-12", "2024-02-19", "2024-02-26", "2025-02-03"]),
        ("0 0 1-31 * MON", "2024-05-06T00:00:00", ["2024-05-07", "2024-05-08"]),
        ("0 0 */10 * MON", "2024-05-06T00:00:00", ["2024-05-11", "2024-05-13", "2024-05-20", "2024-05-21"]),
        # One of them is *: the other alone decides.
        ("0 0 13 * *", "2024-08-31T00:00:00", ["2024-09-13", "2024-10-13"]),
        ("0 0 ? * FRI", "2024-08-31T00:00:00", ["2024-09-06", "2024-09-13"]),
        ("0 0 */1 * FRI", "2024-08-31T00:00:00", ["2024-09-06", "2024-09-13"]),
        ("0 0 13 * ?", "2024-08-31T00:00:00", ["2024-09-13", "2024-10-13"]),
        ("@monthly", "2024-12-01T00:00:00", ["2025-01-01", "2025-02-01"]),
        ("@weekly", "2024-05-06T00:00:00", ["2024-05-12", "2024-05-19"]),
        ("@yearly", "2024-01-01T00:00:00", ["2025-01-01", "2026-01-01"]),
        ("@Annually", "2024-01-01T00:00:00", ["2025-01-01"]),
        ("@daily", "2024-02-28T00:00:00", ["2024-02-29", "2024-03-01"]),
        ("  @midnight ", "2023-12-31T00:00:00", ["2024-01-01"]),
    ],
)
def test_at_midnight(expression: str, after: str, expected: list[str]) -> None:
    assert firings(expression, after, len(expected)) == [f"{day}T00:00:00+00:00" for day in expected]


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("*/20 59 23 31 12 *", "2024-12-31T23:59:20", ["2024-12-31T23:59:40", "2025-12-31T23:59:00"]),
        ("30 0 12 * * *", "2024-05-06T12:00:30", ["2024-05-07T12:00:30"]),
        ("* * * * * *", "2024-12-31T23:59:58", ["2024-12-31T23:59:59", "2025-01-01T00:00:00"]),
        ("@every 90s", "2024-05-06T12:00:10", ["2024-05-06T12:01:40", "2024-05-06T12:03:10"]),
        ("@every 1h30m", "2024-05-06T23:00:00", ["2024-05-07T00:30:00", "2024-05-07T02:00:00"]),
        ("@every 1.5h", "2024-05-06T23:00:00", ["2024-05-07T00:30:00"]),
        ("@every 500ms", "2024-05-06T12:00:00", ["2024-05-06T12:00:01", "2024-05-06T12:00:02"]),
        ("@every 0.5s", "2024-05-06T12:00:00", ["2024-05-06T12:00:01", "2024-05-06T12:00:02"]),
        ("@every 0s", "2024-05-06T12:00:00", ["2024-05-06T12:00:01", "2024-05-06T12:00:02"]),
        ("@every 999999us", "2024-05-06T12:00:00", ["2024-05-06T12:00:01", "2024-05-06T12:00:02"]),
        ("@every 2000ms", "2024-05-06T12:00:00", ["2024-05-06T12:00:02", "2024-05-06T12:00:04"]),
        ("@every 1m500ms500ms", "2024-05-06T12:00:00", ["2024-05-06T12:01:01"]),
    ],
)
def test_to_the_second(expression: str, after: str, expected: list[str]) -> None:
    assert firings(expression, after, len(expected)) == [f"{time}+00:00" for time in expected]


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        # Berlin goes from 02:00 to 03:00 on 2024-03-31 and from 03:00 back to 02:00 on 2024-10-27, at 01:00 UTC.
        (
            "CRON_TZ=Europe/Berlin 30 2 * * *",
            "2024-03-30T00:00:00",
            ["2024-03-30T02:30:00+01:00", "2024-03-31T03:00:00+02:00", "2024-04-01T02:30:00+02:00"],
        ),
        (
            "TZ=Europe/Berlin 0,30 2,3 * * *",
            "2024-03-31T00:00:00",
            ["2024-03-31T03:00:00+02:00", "2024-03-31T03:30:00+02:00", "2024-04-01T02:00:00+02:00"],
        ),
        (
            "CRON_TZ=Europe/Berlin 30 2 * * *",
            "2024-10-26T00:00:00",
            ["2024-10-26T02:30:00+02:00", "2024-10-27T02:30:00+02:00", "2024-10-28T02:30:00+01:00"],
        ),
        (
            "CRON_TZ=Europe/Berlin */20 2 * * *",
            "2024-10-27T00:10:00",
            ["2024-10-27T02:20:00+02:00", "2024-10-27T02:40:00+02:00", "2024-10-28T02:00:00+01:00"],
        ),
        # Begun within the repeated hour: all of it has been.
        ("CRON_TZ=Europe/Berlin 30 2,4 * * *", "2024-10-27T01:10:00", ["2024-10-27T04:30:00+01:00"]),
        ("CRON_TZ=Europe/Berlin 0 3 * * *", "2024-10-27T00:59:00", ["2024-10-27T03:00:00+01:00"]),
        # Every hour is elapsed time: no hour is left out, none made up for.
        (
            "CRON_TZ=Europe/Berlin 30 * * * *",
            "2024-10-26T23:40:00",
            ["2024-10-27T02:30:00+02:00", "2024-10-27T02:30:00+01:00", "2024-10-27T03:30:00+01:00"],
        ),
        (
            "CRON_TZ=Europe/Berlin 30 * * * *",
            "2024-03-31T00:00:00",
            ["2024-03-31T01:30:00+01:00", "2024-03-31T03:30:00+02:00"],
        ),
        ("CRON_TZ=Europe/Berlin @hourly", "2024-03-31T00:30:00", ["2024-03-31T03:00:00+02:00"]),
        (
            "CRON_TZ=Europe/Berlin 0 */2 * * *",
            "2024-10-26T23:00:00",
            ["2024-10-27T02:00:00+02:00", "2024-10-27T02:00:00+01:00", "2024-10-27T04:00:00+01:00"],
        ),
        # New York goes from 02:00 to 03:00 on 2024-03-10 and from 02:00 back to 01:00 on 2024-11-03.
        (
            "CRON_TZ=America/New_York 15 2 * * SUN",
            "2024-03-09T00:00:00",
            ["2024-03-10T03:00:00-04:00", "2024-03-17T02:15:00-04:00"],
        ),
        (
            "CRON_TZ=America/New_York 45 1 * * *",
            "2024-11-03T00:00:00",
            ["2024-11-03T01:45:00-04:00", "2024-11-04T01:45:00-05:00"],
        ),
        (
            "CRON_TZ=America/New_York */30 * * * *",
            "2024-11-03T05:00:00",
            ["2024-11-03T01:30:00-04:00", "2024-11-03T01:00:00-05:00", "2024-11-03T01:30:00-05:00"],
        ),
        # Half an hour on Lord Howe, from 02:00 to 02:30 on 2024-10-06; a whole day left out on Samoa, 2011-12-30.
        ("CRON_TZ=Australia/Lord_Howe 10 2 * * *", "2024-10-05T12:00:00", ["2024-10-06T02:30:00+11:00"]),
        ("CRON_TZ=Pacific/Apia 0 12 30 12 *", "2011-12-01T00:00:00", ["2011-12-31T00:00:00+14:00"]),
        # Midnight is skipped in Beirut on 2024-03-31.
        (
            "CRON_TZ=Asia/Beirut @daily",
            "2024-03-30T12:00:00",
            ["2024-03-31T01:00:00+03:00", "2024-04-01T00:00:00+03:00"],
        ),
    ],
)
def test_where_the_clock_changes(expression: str, after: str, expected: list[str]) -> None:
    assert firings(expression, after, len(expected)) == expected


def test_the_configured_zone_counts_unless_the_expression_names_one() -> None:
    assert firings("0 9 * * *", "2024-06-30T12:00:00", 1, "Asia/Tokyo") == ["2024-07-01T09:00:00+09:00"]
    assert firings("TZ=UTC 0 9 * * *", "2024-06-30T12:00:00", 1, "Asia/Tokyo") == ["2024-07-01T09:00:00+00:00"]


def test_a_beat_goes_on_from_the_firing_before() -> None:
    every = parse("@every 10s")

    assert every.next_after(1005.2, previous=1000) == 1010
    assert every.next_after(1010, previous=1000) == 1020
    assert every.next_after(1000, previous=1000) == 1010
    assert every.next_after(1047, previous=1000) == 1050


def test_a_fraction_of_a_second_after_a_firing_is_after_it() -> None:
    assert parse("* * * * * *").next_after(100.9) == 101


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0 9 * * 1-5", "0 0 9 * * MON-FRI", True),
        ("CRON_TZ=UTC 0 9 * * *", "0 9 * * *", True),
        ("CRON_TZ=Europe/Berlin 0 9 * * *", "0 9 * * *", False),
        ("@every 60s", "@every 1m", True),
        ("@every 60s", "* * * * *", False),
        ("0 9 * * *", "0 10 * * *", False),
    ],
)
def test_expressions_mean_the_same_when_they_fire_alike(one: str, other: str, same: bool) -> None:
    assert (parse(one).meaning == parse(other).meaning) is same


@pytest.mark.parametrize(
    ("expression", "timezone", "phrases"),
    [
        (None, None, ["config.schedule is missing"]),
        ("", None, ["config.schedule"]),
        (5, None, ["config.schedule", "non-empty string"]),
        (["0 9 * * *"], None, ["config.schedule", "non-empty string"]),
        ("* * * *", None, ["number of fields is 4", "five fields"]),
        ("* * * * * * *", None, ["number of fields is 7"]),
        ("60 * * * *", None, ["minute 60 is out of range", "0 to 59"]),
        ("* 24 * * *", None, ["hour 24 is out of range", "0 to 23"]),
        ("* * 0 * *", None, ["day of month 0", "1 to 31"]),
        ("* * * 13 *", None, ["month 13", "1 to 12"]),
        ("* * * * 8", None, ["day of week 8", "0 to 7"]),
        ("61 * * * * *", None, ["second 61"]),
        ("* * * foo *", None, ["month 'foo' is invalid", "jan"]),
        ("* * * * monday", None, ["day of week 'monday'", "mon"]),
        ("*/0 * * * *", None, ["minute step in '*/0'", "*/10"]),
        ("*/x * * * *", None, ["minute step in '*/x'"]),
        ("1,,2 * * * *", None, ["minute 'an empty part'"]),
        ("0 22-2 * * *", None, ["hour range '22-2' goes backwards", "22-23,0-2"]),
        ("0 0 31 2 *", None, ["day of month 31 does not exist in the given months", "write L"]),
        ("0 0 31 4,6,9,11 *", None, ["day of month 31 does not exist"]),
        ("0 0 30 2 ?", None, ["day of month 30 does not exist"]),
        ("-1 * * * *", None, ["minute"]),
        ("٣ * * * *", None, ["minute"]),
        ("@reboot", None, ["descriptor '@reboot' is unknown", "@daily"]),
        ("@every", None, ["duration", "1h30m"]),
        ("@every 5", None, ["duration '5'", "90s"]),
        ("@every 5 days", None, ["duration '5days'"]),
        ("@every 1.5s", None, ["duration must be whole seconds"]),
        ("@every 999999999h", None, ["duration is more than ten years"]),
        ("CRON_TZ=Mars/Olympus 0 9 * * *", None, ["time zone 'Mars/Olympus' is unknown", "Europe/Berlin"]),
        ("CRON_TZ= 0 9 * * *", None, ["time zone ''"]),
        ("CRON_TZ=../../etc/passwd 0 9 * * *", None, ["time zone"]),
        ("CRON_TZ=Europe 0 9 * * *", None, ["time zone 'Europe'"]),
        ("0 9 * * *", "Nowhere", ["time zone 'Nowhere'"]),
        ("0 9 * * *", 5, ["time zone 5"]),
        ("CRON_TZ=Europe/Berlin", None, ["number of fields is 0"]),
        ("0 " * 900, None, ["too long"]),
    ],
)
def test_what_is_wrong_is_named_with_its_field_and_a_remedy(
    expression: object, timezone: object, phrases: list[str]
) -> None:
    with pytest.raises(CronInvalid) as raised:
        parse(expression, timezone)
    for words in phrases:
        assert words in str(raised.value)
    assert raised.value.remedy


@given(st.text(max_size=40) | st.text(alphabet="0123456789*/,-?L @hmsMONF", max_size=30))
def test_no_text_whatever_raises_anything_else(expression: str) -> None:
    assert isinstance(next_after(expression, 1_700_000_000), int | CronInvalid)


def next_after(expression: str, instant: int) -> int | Exception:
    try:
        return parse(expression).next_after(instant)
    except Exception as error:  # noqa: BLE001 - the test says which it may be
        return error


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Santiago"]
instants = st.integers(min_value=at("2023-01-01T00:00:00"), max_value=at("2025-12-31T00:00:00"))


def field(lowest: int, highest: int) -> st.SearchStrategy[str]:
    numbers = st.integers(lowest, highest)
    spans = st.tuples(numbers, numbers).map(lambda pair: f"{min(pair)}-{max(pair)}")
    return st.one_of(
        st.just("*"),
        numbers.map(str),
        spans,
        st.integers(1, 20).map("*/{}".format),
        st.tuples(spans, numbers).map(lambda both: f"{both[0]}/{both[1] or 1}"),
    )


EXPRESSIONS = st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 6)).map(" ".join)


@given(EXPRESSIONS, st.sampled_from(ZONES), instants)
def test_a_firing_is_later_and_the_search_may_begin_anywhere_before_it(expression: str, zone: str, after: int) -> None:
    schedule = parse(expression, zone)

    found = schedule.next_after(after)

    assert found > after
    assert schedule.next_after(found - 1) == found
    assert schedule.next_after((after + found) // 2) == found


@given(EXPRESSIONS, st.sampled_from(ZONES), instants)
def test_each_firing_matches_the_wall_clock_or_ends_a_gap(expression: str, zone: str, after: int) -> None:
    schedule = parse(expression, zone)

    found = schedule.next_after(after)

    wall, before = (datetime.fromtimestamp(second, ZoneInfo(zone)) for second in (found, found - 1))
    assert matches(expression, wall) or wall.utcoffset() > before.utcoffset()  # type: ignore[operator]


@given(st.tuples(field(0, 59), field(0, 23)).map(" ".join), instants)
def test_between_two_firings_no_minute_matches(times: str, after: int) -> None:
    expression = f"{times} * * *"

    found = parse(expression).next_after(after)

    minutes = range((after // 60 + 1) * 60, found, 60)
    assert not any(matches(expression, datetime.fromtimestamp(minute, UTC)) for minute in minutes)


def matches(expression: str, wall: datetime) -> bool:
    """Whether the fields hold *wall*, read in the plainest way."""
    minute, hour, day, month, weekday = expression.split()
    days = contains(day, wall.day, 1, calendar.monthrange(wall.year, wall.month)[1])
    weekdays = contains(weekday, wall.isoweekday() % 7, 0, 6)
    free = {"*", "*/1"}
    day_matches = days and weekdays if day in free or weekday in free else days or weekdays
    inner = contains(minute, wall.minute, 0, 59) and contains(hour, wall.hour, 0, 23)
    return wall.second == 0 and inner and contains(month, wall.month, 1, 12) and day_matches


def contains(text: str, number: int, lowest: int, highest: int) -> bool:
    span, _, step = text.partition("/")
    first, _, last = (f"{lowest}-{highest}" if span == "*" else span).partition("-")
    return number in range(int(first), int(last or first) + 1, int(step or 1))


def test_every_is_kept_apart_from_the_fields() -> None:
    assert isinstance(parse("@EVERY 5m"), Every)
