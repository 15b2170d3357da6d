"""Load: a trapezoid (up, level, down) whose driver keeps the rate, counts failures and cleans up."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.core.errors import Retryable
from tools.bots.announce import Deployment
from tools.bots.load import Driver, Kind, Load, steps


class Time:
    """Virtual time: sleeping moves the clock and nothing else."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


class Recorder:
    """A publisher that records its calls, and fails on request."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.events: list[tuple[float, str, str]] = []
        self.failing: set[str] = set()
        self.down = False
        self.busy = asyncio.Event()

    async def created(self, deployed: Deployment) -> None:
        self._take("create", deployed.id)

    async def deleted(self, entity_id: str, config: dict[str, object]) -> None:
        self._take("remove", entity_id)

    def _take(self, action: str, entity_id: str) -> None:
        if self.down or entity_id in self.failing:
            raise Retryable("no answer")
        self.events.append((self.time.now, action, entity_id))
        if len(self.events) == 20:
            self.busy.set()

    def left(self) -> set[str]:
        left: set[str] = set()
        for _, action, entity_id in self.events:
            left = left | {entity_id} if action == "create" else left - {entity_id}
        return left


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def published(time: Time) -> Recorder:
    return Recorder(time)


def driver(load: Load, published: Recorder, time: Time) -> Driver:
    def deploy(number: int) -> Deployment:
        return Deployment(load.id_of(number), load.config(), {})

    return Driver(load, published, deploy, lambda progress: None, time.sleep, time)


async def test_bots_come_at_the_pace_stay_and_go(time: Time, published: Recorder) -> None:
    progress = await driver(Load(Kind.BOTS, "r", 3, 2.0, 10.0), published, time).run()

    assert [at for at, _, _ in published.events] == [0.0, 0.5, 1.0, 11.0, 11.5, 12.0]
    assert (progress.created, progress.removed, progress.failed) == (3, 3, 0)
    assert published.left() == set()


async def test_an_event_that_fails_is_counted_and_the_others_go_on(time: Time, published: Recorder) -> None:
    load = Load(Kind.BOTS, "r", 5, 10.0, 1.0)
    published.failing = {load.id_of(2)}

    progress = await driver(load, published, time).run()

    # Its removal is tried as well, once more at the end: the creation may have got through.
    assert (progress.created, progress.removed, progress.failed) == (4, 4, 3)


async def test_a_server_that_stays_away_ends_the_run(time: Time, published: Recorder) -> None:
    published.down = True

    with pytest.raises(Retryable):
        await driver(Load(Kind.BOTS, "r", 1000, 10.0, 1.0), published, time).run()


async def test_an_interrupted_run_leaves_nothing_behind(time: Time, published: Recorder) -> None:
    running = asyncio.create_task(driver(Load(Kind.BOTS, "r", 1000, 10.0, 1.0), published, time).run())
    await published.busy.wait()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert published.left() == set()
    assert len(published.events) < 1000


async def test_backtests_are_not_removed_when_a_run_is_interrupted(time: Time, published: Recorder) -> None:
    running = asyncio.create_task(driver(Load(Kind.BACKTESTS, "r", 1000, 10.0, 1.0), published, time).run())
    await published.busy.wait()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert {action for _, action, _ in published.events} == {"create"}


any_load = st.builds(
    Load,
    kind=st.sampled_from([Kind.BOTS, Kind.SCHEDULES]),
    run=st.just("r"),
    count=st.integers(1, 200),
    per_second=st.floats(0.01, 200),
    hold_seconds=st.floats(0, 1000),
)


@given(any_load)
def test_everything_that_is_made_is_removed_once_and_later(load: Load) -> None:
    planned = list(steps(load))
    made = {step.number: step.at_seconds for step in planned if step.creates}
    removed = {step.number: step.at_seconds for step in planned if not step.creates}

    assert len(planned) == 2 * load.count
    assert made.keys() == removed.keys() == set(range(load.count))
    assert all(removed[number] >= made[number] for number in made)


@given(any_load)
def test_events_are_in_order_and_no_closer_than_the_pace(load: Load) -> None:
    for creates in (True, False):
        times = [step.at_seconds for step in steps(load) if step.creates is creates]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert all(abs(gap - 1 / load.per_second) < 1e-6 * max(1, times[-1]) for gap in gaps)


def test_backtests_end_by_themselves_and_are_not_removed() -> None:
    load = Load(Kind.BACKTESTS, "r", count=3, per_second=1, hold_seconds=10, run_seconds=2)

    assert all(step.creates for step in steps(load))
    assert load.config()["run_seconds"] == 2


def test_schedules_have_expression_and_bots_run_until_stopped() -> None:
    assert Load(Kind.SCHEDULES, "r", 1, 1, 1, schedule="@hourly").config()["schedule"] == "@hourly"
    assert Load(Kind.BOTS, "r", 1, 1, 1).config()["run_seconds"] is None
