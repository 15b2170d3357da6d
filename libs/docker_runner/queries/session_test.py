"""A session with a relay that the test plays."""

import asyncio

import pytest

from libs.docker_runner.errors import EngineUnavailable
from libs.docker_runner.queries.frames import STREAMS, Frame, FrameKind, FrameReader
from libs.docker_runner.queries.http_exchange import AnswerFault
from libs.docker_runner.queries.session import (
    AnswerUnusable,
    NoStreamFree,
    QueryProcessEnded,
    RelaySession,
    SessionEnded,
)

ANSWER = b"HTTP/1.0 200 OK\r\n\r\n{}"


class Relay:
    """The other end of the channel."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[Frame] = asyncio.Queue()
        self.is_closed = False
        self._sent: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self._frames = FrameReader()

    def send(self, kind: FrameKind, stream: int, text: bytes = b"") -> None:
        self._sent.put_nowait(bytes(Frame(kind, stream, text)))

    def break_off(self, what: bytes | Exception = b"") -> None:
        self._sent.put_nowait(what)

    async def read(self) -> bytes:
        sent = await self._sent.get()
        if isinstance(sent, Exception):
            raise sent
        return sent

    async def write(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            self.received.put_nowait(frame)

    def close(self) -> None:
        self.is_closed = True


async def asking(session: RelaySession, relay: Relay) -> "tuple[asyncio.Task[bytes], int]":
    task = asyncio.create_task(session.ask(b"GET", 100))
    frame = await relay.received.get()
    assert (frame.kind, frame.text) == (FrameKind.REQUEST, b"GET")
    return task, frame.stream


async def test_answers_are_told_apart_by_their_streams() -> None:
    relay = Relay()
    session = RelaySession(relay, "b")
    first, one = await asking(session, relay)
    second, two = await asking(session, relay)

    relay.send(FrameKind.DATA, two, b"HTTP/1.0 200 OK\r\n\r\n2")
    relay.send(FrameKind.DATA, one, b"HTTP/1.0 200 OK\r\n\r\n1")
    relay.send(FrameKind.END, two)
    relay.send(FrameKind.END, one)

    assert (await first, await second, session.is_idle) == (b"1", b"2", True)
    await session.close()


async def test_cancelled_question_is_ended_and_its_late_answer_reaches_no_other() -> None:
    relay = Relay()
    session = RelaySession(relay, "b")
    task, stream = await asking(session, relay)

    task.cancel()
    await asyncio.wait([task])

    assert (await relay.received.get()) == Frame(FrameKind.CANCEL, stream)
    other, next_stream = await asking(session, relay)
    assert next_stream != stream
    relay.send(FrameKind.DATA, stream, ANSWER)
    relay.send(FrameKind.END, stream)
    relay.send(FrameKind.DATA, next_stream, b"HTTP/1.0 200 OK\r\n\r\nmine")
    relay.send(FrameKind.END, next_stream)
    assert (await other, session.is_idle) == (b"mine", True)
    await session.close()


async def test_streams_are_bounded() -> None:
    relay = Relay()
    session = RelaySession(relay, "b")
    tasks = [(await asking(session, relay))[0] for _ in range(STREAMS)]

    with pytest.raises(NoStreamFree):
        await session.ask(b"GET", 100)

    await session.close()
    assert {type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)} == {SessionEnded}


async def test_end_of_the_query_process_is_told_with_its_last_lines() -> None:
    relay = Relay()
    session = RelaySession(relay, "b")
    task, stream = await asking(session, relay)

    relay.send(FrameKind.CRASHED, stream, b"it ended with exit code 3\n\nTraceback\n\xff\n")

    with pytest.raises(QueryProcessEnded, match="it ended with exit code 3; its last output: Traceback\n\ufffd"):
        await task
    await session.close()


async def test_answer_without_an_end_is_incomplete_and_the_session_goes_on() -> None:
    relay = Relay()
    session = RelaySession(relay, "b")
    task, stream = await asking(session, relay)

    relay.send(FrameKind.END, stream)

    with pytest.raises(AnswerUnusable) as unusable:
        await task
    assert (unusable.value.fault, session.is_over) == (AnswerFault.INCOMPLETE, False)
    await session.close()


@pytest.mark.parametrize("how", [b"", b"HTTP/1.1 500 no relay", EngineUnavailable("exec", "broken")])
async def test_relay_that_ends_ends_all_questions_and_the_session(how: bytes | Exception) -> None:
    relay = Relay()
    session = RelaySession(relay, "b")
    task, _ = await asking(session, relay)

    relay.break_off(how)

    with pytest.raises(SessionEnded):
        await task
    with pytest.raises(SessionEnded):
        await session.ask(b"GET", 100)
    assert (session.is_over, relay.is_closed) == (True, True)
    await session.close()
