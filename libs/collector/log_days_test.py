from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from libs.collector.log_days import LogDays, LogRules
from libs.core.storage.object_store import ObjectInfo
from libs.docker_runner.logs.keys import folder_and_day, log_key

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
QUIET = NOON - timedelta(hours=1)
FOR_EVER = LogRules(written_before=None, most_days=0, quiet_since=QUIET)


def log(entity_id: str, day: str, writer: str = "", *, hours_ago: float = 10) -> ObjectInfo:
    return ObjectInfo(log_key(entity_id, day, writer), 1, "etag", NOON - timedelta(hours=hours_ago))


def expired(rules: LogRules, logs: Iterable[ObjectInfo]) -> list[str]:
    days = LogDays(rules)
    return [one.key for info in sorted(logs, key=lambda info: info.key) for one in days.expired(info)]


def by_count(most: int) -> LogRules:
    return LogRules(None, most, QUIET)


def test_without_rules_every_log_stays() -> None:
    assert expired(FOR_EVER, [log("b", "20200101", hours_ago=1e5)]) == []


def test_a_log_goes_by_the_time_at_which_it_was_last_written() -> None:
    rules = LogRules(NOON - timedelta(hours=5), 0, QUIET)

    gone = expired(rules, [log("b", "20260301", hours_ago=6), log("b", "20200101", hours_ago=4)])

    assert gone == [log_key("b", "20260301")]


def test_the_newest_days_of_each_id_stay() -> None:
    logs = [log(one, f"2026010{day}") for one in ("a", "b") for day in (1, 2, 3)] + [log("c", "20260101")]

    assert expired(by_count(2), logs) == [log_key("a", "20260101"), log_key("b", "20260101")]


def test_a_day_that_two_hosts_wrote_counts_once_and_goes_whole() -> None:
    logs = [log("b", day, writer) for day in ("20260101", "20260102", "20260103") for writer in ("", "h1")]

    assert set(expired(by_count(2), logs)) == {log_key("b", "20260101"), log_key("b", "20260101", "h1")}


def test_days_of_an_id_within_another_ones_folder_count_for_themselves() -> None:
    # In the order of keys the days of `a/20260102` stand between those of `a`.
    logs = [
        log(one, day) for one in ("a", "a/20260102", "a/b", "a/b/c") for day in ("20260101", "20260102", "20260103")
    ]

    assert set(expired(by_count(3), logs)) == set()
    assert len(expired(by_count(1), logs)) == 8


def test_a_day_that_was_written_a_moment_ago_stays() -> None:
    logs = [log("b", "20260101", hours_ago=0.5), log("b", "20260102"), log("b", "20260103")]

    assert expired(by_count(1), logs) == [log_key("b", "20260102")]


def test_object_that_is_not_a_log_stays_uncounted() -> None:
    others = [ObjectInfo(key, 1, "", NOON - timedelta(days=9)) for key in ("logs/b/20260109.txt", "logs/20260109.log")]

    assert expired(by_count(1), [log("b", "20260101"), *others]) == []


@given(
    st.lists(st.tuples(st.sampled_from(["a", "a/b", "a/1", "b"]), st.integers(1, 9)), max_size=30), st.integers(1, 4)
)
def test_exactly_the_newest_days_stay(places: list[tuple[str, int]], most: int) -> None:
    logs = {log_key(one, f"2026010{day}"): log(one, f"2026010{day}") for one, day in places}

    gone = set(expired(by_count(most), logs.values()))

    for entity_id in {one for one, _ in places}:
        keys = sorted(log_key(one, f"2026010{day}") for one, day in set(places) if one == entity_id)
        assert [key for key in keys if key not in gone] == keys[-most:]


def test_folder_and_day_of_a_key() -> None:
    assert folder_and_day(log_key("a/b", "20260101")) == ("logs/a/b/", "20260101")
    assert folder_and_day(log_key("a", "20260101", "h1")) == ("logs/a/", "20260101")
    assert folder_and_day("logs/a/x20260101.log") is None
    assert folder_and_day("results/a/20260101.log") is None
