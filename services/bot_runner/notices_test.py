import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.core.store.entities import Entity
from libs.core.store.holds import Hold, Holds, HoldTarget
from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, ManagedContainer, from_labels
from libs.notifications.event import Event, Notice
from services.bot_runner.notices import BotNotices
from services.bot_runner.restarts import RestartHistory

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Queue:
    """Keeps the notices that are put into it."""

    notices: list[Notice] = field(default_factory=list)

    async def put(self, notice: Notice) -> None:
        self.notices.append(notice)

    @property
    def events(self) -> list[Event]:
        return [notice.event for notice in self.notices]


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def notices(queue: Queue) -> BotNotices:
    return BotNotices(queue, NOW.timestamp)


def bot(holds: Holds | None = None, **config: Any) -> Entity:
    custom = {"version": "1.2", "config": {"author": "ann"}}
    return Entity.of({"id": "b", "config": config, "custom": custom}, holds)


def container(ran_seconds: float = 0.0, run_id: str = "r1") -> ManagedContainer:
    labels = {"runtime.id": "b", "runtime.run-id": run_id, "runtime.revision": "4"}
    began = NOW - timedelta(seconds=ran_seconds)
    return from_labels(labels, container_id="c", name="c", state=ContainerState.RUNNING, started_at=began)


async def test_crash_is_reported_with_its_reason_and_last_lines(queue: Queue, notices: BotNotices) -> None:
    ended = Ended(container(5.0), 3, False, EndReason.ERROR, NOW - timedelta(seconds=5), NOW, last_lines=["no funds"])

    await notices.crashed(bot(pace=1), ended, "exit code 3")

    [notice] = queue.notices
    assert (notice.event, notice.key, notice.at, notice.entity.id) == (Event.CRASHED, "r1", NOW, "b")
    assert notice.entity.config == {"pace": 1}
    assert notice.facts == {
        "version": "1.2",
        "reason": "error",
        "detail": "exit code 3",
        "exit_code": 3,
        "ran_seconds": 5.0,
        "last_lines": ["no funds"],
        "revision": 4,
        "run_id": "r1",
    }


@pytest.mark.parametrize(("failures", "events"), [(1, []), (2, []), (3, [Event.BACKING_OFF]), (4, [])])
async def test_backoff_is_reported_once_in_a_series_of_failures(
    queue: Queue, notices: BotNotices, failures: int, events: list[Event]
) -> None:
    history = RestartHistory(failures=failures, not_before=NOW.timestamp() + 4)

    await notices.backing_off(bot(), "r1", history, "exit code 3")

    assert queue.events == events
    assert all(notice.facts["next_restart"] == NOW + timedelta(seconds=4) for notice in queue.notices)


@pytest.mark.parametrize(
    ("failures", "ran_seconds", "events"),
    [
        (1, 59.9, []),
        (1, 60.0, [Event.RECOVERED]),
        (1, 3599.0, [Event.RECOVERED]),
        (1, 3600.0, []),
        (0, 100.0, []),
    ],
)
async def test_recovery_is_reported_once_after_a_minute_without_failure(
    queue: Queue, notices: BotNotices, failures: int, ran_seconds: float, events: list[Event]
) -> None:
    for _ in range(2):
        await notices.runs(bot(), container(ran_seconds), RestartHistory(failures=failures))

    assert queue.events == events


async def test_recovery_of_the_next_run_is_reported_again(queue: Queue, notices: BotNotices) -> None:
    for run_id in ("r1", "r2"):
        await notices.runs(bot(), container(90.0, run_id), RestartHistory(failures=1))

    assert [notice.key for notice in queue.notices] == ["r1", "r2"]


@pytest.mark.parametrize(("age_seconds", "number"), [(0, 1), (3599, 1), (3601, 0)])
async def test_recent_hold_is_reported_once_with_who_and_why(
    queue: Queue, notices: BotNotices, age_seconds: float, number: int
) -> None:
    since = NOW - timedelta(seconds=age_seconds)
    held = bot(Holds([Hold(HoldTarget.everything(), since, "runtime bot kill", "incident")]))
    for _ in range(2):
        await notices.held(held)

    assert queue.events == [Event.HELD] * number
    for notice in queue.notices:
        facts = {"state": "killed", "by": "runtime bot kill", "reason": "incident", "target": "all"}
        assert {name: notice.facts[name] for name in facts} == facts


async def test_second_hold_is_reported_again_and_a_removed_bot_is_forgotten(queue: Queue, notices: BotNotices) -> None:
    for seconds in (20, 10):
        hold = Hold(HoldTarget.entity("b"), NOW - timedelta(seconds=seconds), graceful=True)
        await notices.held(bot(Holds([hold])))
    notices.forget_all_but([])
    await notices.held(bot(Holds([hold])))

    assert [notice.facts["state"] for notice in queue.notices] == ["stopped"] * 3
    assert queue.notices[0].key != queue.notices[1].key == queue.notices[2].key


async def test_unknown_bot_is_not_reported(queue: Queue) -> None:
    notices = BotNotices(queue, time.time)
    ended = Ended(container(), 1, False, EndReason.ERROR, None, None)
    await notices.crashed(None, ended, "")
    await notices.held(None)
    await notices.held(bot())
    await notices.runs(None, container(90), RestartHistory(failures=1))
    await notices.backing_off(None, "r", RestartHistory(failures=3), "")

    assert queue.notices == []
