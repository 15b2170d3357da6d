from datetime import UTC, datetime

import pytest

from libs.core.run_record import RunRecord
from libs.core.store.stop_deadlines import StopDeadlines

EPOCH = 1_800_000_000.0


def stopping(deadline: float | None = EPOCH + 31.0, seconds: float | None = 31.0, run_id: str = "r") -> RunRecord:
    return RunRecord(
        run_id=run_id,
        entity_id="b",
        segment_id=1,
        worker_id="w",
        host="h",
        epoch=1,
        started_at=datetime.fromtimestamp(EPOCH, UTC),
        stop_deadline=datetime.fromtimestamp(deadline, UTC) if deadline is not None else None,
        stop_seconds=seconds,
    )


def test_run_without_a_deadline_does_not_stop() -> None:
    assert not StopDeadlines().may_live(stopping(None), now=100.0, store_now=EPOCH, steady_seconds=1e6)


@pytest.mark.parametrize(("store_after", "may_live"), [(0.0, True), (31.9, True), (32.0, False)])
def test_deadline_by_a_steady_clock_is_over_a_margin_later(store_after: float, may_live: bool) -> None:
    found = StopDeadlines().may_live(stopping(), now=100.0, store_now=EPOCH + store_after, steady_seconds=31.0)

    assert found is may_live


def test_clock_that_is_known_for_less_than_the_stop_takes_does_not_count() -> None:
    assert StopDeadlines().may_live(stopping(), now=100.0, store_now=EPOCH + 3600, steady_seconds=30.9)


@pytest.mark.parametrize(("after", "may_live"), [(31.9, True), (32.0, False)])
@pytest.mark.parametrize("steady_seconds", [0.0, 1e6])
def test_own_clock_ends_the_wait_whatever_mongodbs_clock_shows(
    after: float, may_live: bool, steady_seconds: float
) -> None:
    deadlines = StopDeadlines()
    assert deadlines.may_live(stopping(), now=100.0, store_now=EPOCH, steady_seconds=steady_seconds)

    found = deadlines.may_live(stopping(), now=100.0 + after, store_now=EPOCH, steady_seconds=steady_seconds)

    assert found is may_live


def test_each_run_is_waited_for_from_its_own_first_sight() -> None:
    deadlines = StopDeadlines()
    deadlines.may_live(stopping(), now=100.0, store_now=EPOCH, steady_seconds=0.0)

    assert deadlines.may_live(stopping(run_id="other"), now=140.0, store_now=EPOCH, steady_seconds=0.0)
    assert not deadlines.may_live(stopping(), now=140.0, store_now=EPOCH, steady_seconds=0.0)


def test_unknown_duration_counts_as_a_minute() -> None:
    deadlines = StopDeadlines()
    run = stopping(seconds=None)

    assert deadlines.may_live(run, now=100.0, store_now=EPOCH + 3600, steady_seconds=59.9)
    assert deadlines.may_live(run, now=160.9, store_now=EPOCH + 3600, steady_seconds=59.9)
    assert not deadlines.may_live(run, now=161.0, store_now=EPOCH, steady_seconds=59.9)


def test_first_sights_are_forgotten_after_a_day_alone() -> None:
    deadlines = StopDeadlines()
    deadlines.may_live(stopping(), now=100.0, store_now=EPOCH, steady_seconds=0.0)

    deadlines.forget_old(86_499.0)
    assert not deadlines.may_live(stopping(), now=86_499.0, store_now=EPOCH, steady_seconds=0.0)
    deadlines.forget_old(86_500.0)
    assert deadlines.may_live(stopping(), now=86_500.0, store_now=EPOCH, steady_seconds=0.0)
