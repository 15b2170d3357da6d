from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from libs.core.store.entities import Entity
from libs.core.store.holds import Hold, HoldTarget
from services.bot_scheduler.rest import is_at_rest, is_idle
from services.bot_scheduler.state import ScheduleState

NOW = 1_000_000.0


def schedule(next_in_seconds: float | None = 60.0, **scheduler: Any) -> Entity:
    return Entity.of(
        {
            "_id": 1,
            "id": "s",
            "segment_id": 1,
            "revision": 1,
            "config": {"schedule": "0 0 * * *"},
            "next_execution_time": NOW + next_in_seconds if next_in_seconds is not None else None,
            "scheduler": scheduler,
        }
    )


def test_schedule_without_a_run_that_is_due_later_is_at_rest() -> None:
    assert is_at_rest(schedule(30.0), NOW)


@pytest.mark.parametrize(
    "active",
    [
        schedule(29.0),
        schedule(-5.0),
        schedule(None),
        schedule(firing={"run_id": "r", "at": 1}),
        schedule(queued=[1]),
        schedule(dropped=[{"at": 1, "run_id": "r", "reason": "missed", "dropped_at": 1.0, "message": ""}]),
        schedule(trigger={"id": "t", "requested_at": 1.0}),
        replace(schedule(), held=Hold(HoldTarget.everything(), datetime.now(UTC))),
        replace(schedule(), config={"schedule": "nonsense"}),
    ],
    ids=["due soon", "overdue", "new", "runs", "queued", "dropped", "triggered", "held", "invalid"],
)
def test_active_schedule_is_not_at_rest(active: Entity) -> None:
    assert not is_at_rest(active, NOW)


@pytest.mark.parametrize(("seconds", "is_free"), [(10.0, True), (9.0, False)])
def test_owner_moves_a_schedule_that_is_due_a_little_later(seconds: float, is_free: bool) -> None:
    assert is_idle(ScheduleState.of(schedule(seconds)), NOW) is is_free
