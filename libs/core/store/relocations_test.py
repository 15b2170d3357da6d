from datetime import UTC, datetime
from typing import Any

import pytest

from libs.core.store.relocations import STOP_SECONDS, Relocation

NOW = 1_000_000.0
STORED = {"id": "o", "from": 1, "to": 2, "revision": 3, "reason": "compaction"}


def order(left_seconds: float = 60.0) -> Relocation:
    return Relocation("o", 1, 2, 3, "compaction", NOW + left_seconds)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_stored_order_is_read() -> None:
    stored = {**STORED, "deadline": at(NOW)}

    assert Relocation.of({"relocation": stored}) == Relocation("o", 1, 2, 3, "compaction", NOW)


def test_stored_move_is_read_also_without_a_zone() -> None:
    stored = {**STORED, "moved_at": at(NOW).replace(tzinfo=None)}

    assert Relocation.of({"relocation": stored}) == Relocation("o", 1, 2, 3, "compaction", None, NOW)


@pytest.mark.parametrize("stored", [None, "x", {}, {**STORED, "to": "2"}, {**STORED, "id": 7}])
def test_unreadable_field_is_no_order(stored: Any) -> None:
    assert Relocation.of({"relocation": stored}) is None


@pytest.mark.parametrize(
    ("segment", "revision", "left_seconds", "holds"),
    [(1, 3, 60.0, True), (2, 3, 60.0, False), (1, 4, 60.0, False), (1, 3, -0.9, True), (1, 3, -1.0, False)],
    ids=["valid", "of another segment", "changed", "within the margin", "over"],
)
def test_order_holds_for_its_segment_and_revision_until_after_its_deadline(
    segment: int, revision: int, left_seconds: float, holds: bool
) -> None:
    assert order(left_seconds).holds(segment, revision, NOW) is holds


def test_move_that_is_done_holds_no_more() -> None:
    assert not Relocation("o", 1, 2, 3, "compaction", None, NOW).holds(1, 3, NOW)


@pytest.mark.parametrize(("more_seconds", "may_stop"), [(0.1, True), (0.0, False)])
def test_entity_is_stopped_only_with_enough_time_left(more_seconds: float, may_stop: bool) -> None:
    assert order(STOP_SECONDS + more_seconds).may_stop(NOW) is may_stop


def test_last_time_is_that_of_the_move_or_of_the_end_of_the_order() -> None:
    assert order(60.0).last_at() == NOW + 60
    assert Relocation("o", 1, 2, 3, "compaction", None, NOW).last_at() == NOW


def test_text_names_reason_and_segments() -> None:
    assert str(order()) == "compaction: from segment 1 to segment 2"
