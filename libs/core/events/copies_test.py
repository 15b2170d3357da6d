"""Which copies are kept, and which ones are handed out."""

from typing import Any

import pytest

from libs.core.events.copies import Copy, CopyLog


def copy(name: str, received_at: float = 0.0, **changes: Any) -> Copy:
    fields: dict[str, Any] = {"subject": "s", "data": name.encode(), "headers": {}, "published_at": 1}
    return Copy(**{**fields, **changes}, received_monotonic=received_at, hand_out_again=lambda *_: None)


def log_with(*copies: Copy, **limits: Any) -> CopyLog:
    log = CopyLog(**limits)
    for one in copies:
        log.append(one)
    return log


def names(copies: list[Copy]) -> list[str]:
    return [one.data.decode() for one in copies]


def test_copies_are_not_delivered_while_stream_exists() -> None:
    assert log_with(copy("a"), copy("b")).take(10, 1.0) == []


def test_after_a_loss_all_that_is_kept_is_handed_out_once_and_then_what_comes() -> None:
    log = log_with(copy("a"), copy("b"))
    log.start(0.0)
    taken = [names(log.take(1, 1.0)), names(log.take(5, 1.0)), names(log.take(5, 1.0))]
    log.append(copy("c"))
    log.start(0.0)

    assert [*taken, names(log.take(5, 1.0))] == [["a"], ["b"], [], ["c"]]


def test_the_next_loss_begins_with_the_oldest_again() -> None:
    log = log_with(copy("a"))
    log.start(0.0)
    log.take(5, 1.0)
    log.stop()

    assert log.take(5, 1.0) == []
    log.start(0.0)
    assert names(log.take(5, 1.0)) == ["a"]


def test_a_copy_is_handed_out_when_the_stream_has_had_time_to_deliver_it() -> None:
    log = log_with(copy("a", 1.0), copy("b", 2.0))
    log.start(2.0)

    assert names(log.take(5, 1.5)) == ["a"]
    assert names(log.take(5, 2.5)) == ["b"]


@pytest.mark.parametrize(
    "limits", [{"copies": 2}, {"size_bytes": 450}, {"seconds": 5.0}], ids=["number", "bytes", "age"]
)
def test_old_copies_are_dropped_beyond_each_limit(limits: dict[str, Any]) -> None:
    log = log_with(copy("a", 0.0), copy("b", 4.0), copy("c", 8.0), **limits)
    log.start(8.0)

    assert names(log.take(5, 10.0)) == ["b", "c"]


def test_copies_that_grew_old_without_others_coming_are_not_handed_out() -> None:
    log = log_with(copy("a", 0.0), copy("b", 4.0), seconds=5.0)
    log.start(8.0)

    assert names(log.take(5, 10.0)) == ["b"]


def test_undelivered_dropped_copy_is_counted() -> None:
    log = log_with(copy("a"), copy("b"), copies=2)
    log.start(0.0)
    log.take(1, 1.0)

    assert [log.append(copy("c")), log.append(copy("d"))] == [0, 1]
    assert names(log.take(5, 1.0)) == ["c", "d"]


def test_copies_of_one_event_have_one_key_whenever_they_arrived() -> None:
    first, second = copy("a", 0.0, published_at=1), copy("a", 1.0, published_at=2)

    assert first.key == second.key
    assert copy("a", headers={"Nats-Msg-Id": "1"}).key != first.key
    assert copy("b").key != first.key
