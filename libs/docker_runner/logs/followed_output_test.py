"""The last lines of what is followed, without asking the engine when the container has died."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

from libs.docker_runner.containers.container import ContainerState, ManagedContainer, from_labels
from libs.docker_runner.containers.state_cache import ContainerStateCache
from libs.docker_runner.engine.answers import Inspected
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.logs.followed_output import FollowedOutput
from libs.docker_runner.logs.output import LAST_LINES, LogLine

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def container(started_at: datetime | None = None) -> ManagedContainer:
    return from_labels({}, container_id="c", name="c", state=ContainerState.RUNNING, started_at=started_at)


class Printing:
    """An engine with one container, which prints *lines*, one a second; its stream ends when it is dead."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.dead = True
        self.questions: list[str] = []

    async def logs(
        self, container: str, *, since: datetime | None = None, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        """What it has printed."""
        self.questions.append("tail" if tail is not None else "follow" if follow else "read")
        pieces = [(NOON + timedelta(seconds=n), line) for n, line in enumerate(self.lines)]
        for stamp, line in pieces[-(tail or len(pieces)) :]:
            if since is None or stamp >= since:
                yield LogLine(f"{stamp:%Y-%m-%dT%H:%M:%S}.000000000Z", "stdout", line.encode() + b"\n")
        if follow and not self.dead:
            await asyncio.Event().wait()

    async def inspect(self, container_id: str) -> Inspected:
        """It began at noon."""
        self.questions.append("inspect")
        return Inspected(container(started_at=NOON))


def following(engine: Printing, states: ContainerStateCache | None = None) -> FollowedOutput:
    as_engine: Any = engine
    return FollowedOutput(as_engine, states or ContainerStateCache(), no_masker)


async def no_masker(container: ManagedContainer) -> None:
    """No secrets."""


async def read(followed: FollowedOutput, since: datetime | None = None) -> list[str]:
    return [line.data.decode().strip() async for line in followed.logs(container(), since=since, follow=True)]


async def test_completely_followed_output_has_its_last_lines() -> None:
    engine = Printing(*(str(n) for n in range(50)))
    followed = following(engine)

    lines = await read(followed)

    assert lines == engine.lines
    assert await followed.last_lines("c") == engine.lines[-LAST_LINES:]
    assert engine.questions == ["follow"]


async def test_takeover_inspects_running_container_at_once() -> None:
    engine, states = Printing("one", "two", "three"), ContainerStateCache()
    followed = following(engine, states)

    lines = await read(followed, since=NOON + timedelta(seconds=2))
    states.note(ContainerEvent(EventKind.DIED, NOON + timedelta(seconds=5), container_id="c", exit_code=0))

    ended = states.ended(container())
    assert lines == ["three"]
    assert await followed.last_lines("c") == ["one", "two", "three"]
    assert ended is not None
    assert ended.started_at == NOON


async def test_repeated_output_is_kept_once() -> None:
    engine = Printing("one", "two")
    followed = following(engine)
    await read(followed)
    engine.lines.append("three")

    again = await read(followed, since=NOON + timedelta(seconds=1))

    assert again == ["two", "three"]
    assert await followed.last_lines("c") == ["one", "two", "three"]


async def test_last_lines_of_open_stream_are_unknown() -> None:
    engine = Printing("one")
    engine.dead = False
    followed = following(engine)
    async with aclosing(followed.logs(container(), follow=True)) as lines:
        await anext(lines)

        assert await followed.last_lines("c") is None


async def test_lines_too_long_to_be_kept_are_left_to_the_engine() -> None:
    engine = Printing("first", *("x" * 4000 for _ in range(6)))
    followed = following(engine)
    await read(followed)
    assert await followed.last_lines("c") is None


async def test_output_of_unknown_or_unfollowed_container_is_unknown() -> None:
    followed = following(Printing("one"))
    await read(followed)
    followed.forget("c")
    assert await followed.last_lines("c") is None
    assert await followed.last_lines("another") is None
