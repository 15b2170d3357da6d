"""Following one container, when the engine, the disk or the log itself misbehaves."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from libs.docker_runner.errors import DockerRunnerError, EngineUnavailable
from libs.docker_runner.logs.follower import ROTATED_LINE, LogFollower, ReadOutput
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.logs.position import Position
from libs.docker_runner.logs.spans import Span
from libs.docker_runner.logs.spool import LogSpool, Place
from tests.support.eventually import eventually


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def lines(first: int, last: int) -> list[LogLine]:
    """One a second."""
    return [LogLine(f"2026-01-31T12:00:{n:02d}Z", "stdout", b"line %d\n" % n) for n in range(first, last)]


def reading(*answers: list[LogLine] | Exception) -> ReadOutput:
    """An engine that returns these answers to successive reads, and then repeats the last one."""
    left = list(answers)

    async def read(*, since: datetime | None, follow: bool) -> AsyncIterator[LogLine]:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        for line in answer:
            yield line

    return read


async def follow_to_the_end(spool: LogSpool, read: ReadOutput, executor: ThreadPoolExecutor) -> list[bytes]:
    written: list[bytes] = []
    follower = LogFollower(spool, "c1", read, executor, lambda place, payload, spans: written.append(payload))
    follower.container_ended()
    await asyncio.wait_for(follower.run(), 60)
    return written


def content(spool: LogSpool) -> bytes:
    snapshot = spool.snapshot()
    try:
        return b"".join(snapshot)
    finally:
        snapshot.close()


async def test_an_engine_that_is_away_for_a_moment_is_asked_again(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    spool = LogSpool(tmp_path)

    await follow_to_the_end(spool, reading(EngineUnavailable("logs", "planned"), lines(0, 3)), executor)

    assert content(spool) == b"line 0\nline 1\nline 2\n"


async def test_lines_of_standard_output_that_may_be_metrics_are_passed_on_with_their_times(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    metric, noted = b'{"_metric": "pnl", "value": 1}\n', list[tuple[float, bytes]]()
    output = [
        LogLine("2026-01-31T12:00:00.5Z", "stdout", metric),
        LogLine("2026-01-31T12:00:01Z", "stderr", metric),
        LogLine("2026-01-31T12:00:02Z", "stdout", b"metric\n"),
    ]
    follower = LogFollower(
        LogSpool(tmp_path), "c1", reading(output), executor, lambda *_: None, on_metric=lambda *one: noted.append(one)
    )
    follower.container_ended()
    await asyncio.wait_for(follower.run(), 60)

    assert noted == [(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp() + 0.5, metric)]


async def test_a_container_that_is_gone_ends_it(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    with pytest.raises(DockerRunnerError):
        await follow_to_the_end(LogSpool(tmp_path), reading(DockerRunnerError("no such container")), executor)


async def test_rotated_away_log_leaves_a_note(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    spool = LogSpool(tmp_path)
    await follow_to_the_end(spool, reading(lines(0, 5)), executor)

    await follow_to_the_end(spool, reading(lines(20, 22)), executor)

    assert content(spool).endswith(b"line 4\n" + ROTATED_LINE + b"line 20\nline 21\n")


class FullDisk(LogSpool):
    """A spool on a disk that is full for a while."""

    refusals = 2

    def append(
        self, container_id: str, day: str, payload: bytes, position: Position, spans: Sequence[Span] = ()
    ) -> Place:
        if self.refusals:
            self.refusals -= 1
            raise OSError(28, "No space left on device")
        return super().append(container_id, day, payload, position, spans)


async def test_a_full_disk_is_waited_out_without_loss(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    spool = FullDisk(tmp_path)

    written = await follow_to_the_end(spool, reading(lines(0, 3)), executor)

    assert content(spool) == b"".join(written) == b"line 0\nline 1\nline 2\n"


async def test_following_again_takes_nothing_twice(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    for end in (2, 2, 5, 9):
        await follow_to_the_end(LogSpool(tmp_path), reading(lines(0, end)), executor)

    assert content(LogSpool(tmp_path)) == b"".join(line.data for line in lines(0, 9))


async def test_rest_of_open_stream_is_read_while_engine_does_not_answer(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    spool, dying = LogSpool(tmp_path), asyncio.Event()
    first, last = lines(0, 2)

    async def read(*, since: datetime | None, follow: bool) -> AsyncIterator[LogLine]:
        if not follow:
            await asyncio.Event().wait()
        yield first
        await dying.wait()
        await asyncio.sleep(0.01)
        yield last

    follower = LogFollower(spool, "c1", read, executor, lambda place, payload, spans: None)
    following = asyncio.create_task(follower.run())
    await eventually(lambda: content(spool))

    dying.set()
    follower.container_ended()
    try:
        assert await eventually(lambda: content(spool) == b"line 0\nline 1\n")
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
