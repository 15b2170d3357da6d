"""What is known of containers that died, from the engine's events alone."""

import asyncio
from datetime import UTC, datetime, timedelta

from libs.docker_runner.containers.container import ContainerState, ManagedContainer, from_labels
from libs.docker_runner.containers.state_cache import ContainerStateCache
from libs.docker_runner.engine.events import ContainerEvent, EventKind

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def event(kind: EventKind, seconds: float, exit_code: int | None = None) -> ContainerEvent:
    return ContainerEvent(kind, at(seconds), container_id="c", exit_code=exit_code)


def cache_after(*events: ContainerEvent) -> ContainerStateCache:
    states = ContainerStateCache()
    for one in events:
        states.note(one)
    return states


def container(started_at: datetime | None = None) -> ManagedContainer:
    return from_labels({}, container_id="c", name="c", state=ContainerState.RUNNING, started_at=started_at)


def test_a_death_is_known_with_its_code_and_times() -> None:
    ended = cache_after(event(EventKind.STARTED, 0), event(EventKind.DIED, 3, 1)).ended(container())
    assert ended is not None
    assert (ended.state, ended.exit_code, ended.oom_killed) == (ContainerState.EXITED, 1, False)
    assert (ended.started_at, ended.finished_at) == (at(0), at(3))


def test_what_was_killed_ended_when_it_was_killed_and_not_when_the_engine_came_to_say_so() -> None:
    story = [event(EventKind.STARTED, 0), event(EventKind.KILLED, 2)]
    killed = cache_after(*story, event(EventKind.DIED, 3, 137)).ended(container())
    assert killed is not None
    assert killed.finished_at == at(2)


def test_container_that_ended_during_its_kill_has_the_end_time_of_the_engine() -> None:
    story = [event(EventKind.STARTED, 0), event(EventKind.KILLED, 2)]
    ended = cache_after(*story, event(EventKind.DIED, 3, 0)).ended(container())
    assert ended is not None
    assert ended.finished_at == at(3)


def test_signal_event_after_the_death_does_not_delay_the_end_time() -> None:
    states = cache_after(event(EventKind.STARTED, 0), event(EventKind.DIED, 3, 137), event(EventKind.KILLED, 4))
    ended = states.ended(container())
    assert ended is not None
    assert ended.finished_at == at(3)


def test_a_death_for_want_of_memory_is_known_as_that() -> None:
    story = [event(EventKind.STARTED, 0), event(EventKind.OUT_OF_MEMORY, 2), event(EventKind.DIED, 3, 137)]
    ended = cache_after(*story).ended(container())
    assert ended is not None
    assert ended.oom_killed


def test_container_with_an_unseen_start_has_the_inspected_start() -> None:
    states = cache_after(event(EventKind.DIED, 3, 1))
    before = states.ended(container())
    states.note_start("c", at(1))
    after = states.ended(container())
    assert before is None
    assert after is not None
    assert after.started_at == at(1)


def test_a_clock_that_is_another_one_makes_no_end_before_the_start() -> None:
    ended = cache_after(event(EventKind.DIED, 3, 1)).ended(container(started_at=at(3600)))
    assert ended is not None
    assert ended.finished_at == at(3600)


def test_one_that_is_started_again_or_gone_is_not_dead() -> None:
    again = cache_after(event(EventKind.STARTED, 0), event(EventKind.DIED, 3, 1), event(EventKind.STARTED, 4))
    gone = cache_after(event(EventKind.STARTED, 0), event(EventKind.DIED, 3, 1), event(EventKind.REMOVED, 4))
    assert not again.is_over("c")
    assert not gone.is_over("c")


def test_of_very_many_deaths_the_latest_are_known() -> None:
    states = ContainerStateCache()
    for number in range(5000):
        states.note(ContainerEvent(EventKind.DIED, at(number), container_id=f"c{number}", exit_code=0))
    known = [number for number in range(5000) if states.is_over(f"c{number}")]
    assert known == list(range(4000, 5000))


def test_deaths_that_were_removed_or_started_again_take_no_place_of_later_ones() -> None:
    states = cache_after(event(EventKind.DIED, 0, 1), event(EventKind.STARTED, 1))
    states.note(ContainerEvent(EventKind.DIED, at(2), container_id="kept", exit_code=0))
    for number in range(5000):
        for kind in (EventKind.DIED, EventKind.REMOVED):
            states.note(ContainerEvent(kind, at(number), container_id=f"c{number}", exit_code=0))
    for number in range(999):
        states.note(ContainerEvent(EventKind.DIED, at(number), container_id=f"d{number}", exit_code=0))

    assert states.is_over("kept")


async def test_waiter_for_an_end_is_notified_of_the_end_and_of_a_removal() -> None:
    states = ContainerStateCache()
    for end in (event(EventKind.DIED, 3, 1), event(EventKind.REMOVED, 4)):
        states.note(event(EventKind.STARTED, 0))
        waiting = asyncio.create_task(states.until_over("c"))
        await asyncio.sleep(0)
        before = waiting.done()
        states.note(end)
        await asyncio.wait_for(waiting, timeout=5)
        assert not before
