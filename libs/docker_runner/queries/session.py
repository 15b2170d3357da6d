"""A session with the relay in one running container: several questions at the same time over one channel."""

import asyncio
from typing import Protocol

from libs.core.observability.log import get_logger
from libs.docker_runner.errors import DockerRunnerError
from libs.docker_runner.queries.frames import STREAMS, Frame, FrameKind, FrameReader
from libs.docker_runner.queries.http_exchange import AnswerFault, AnswerReader

log = get_logger(__name__)

_TAIL_LINES = 5
_TAIL_CHARACTERS = 600


class Channel(Protocol):
    """Bytes to a program in a container and back."""

    async def read(self) -> bytes:
        """Return the next bytes; empty at the end. Raises EngineUnavailable."""

    async def write(self, data: bytes) -> None:
        """Send *data*. Raises EngineUnavailable."""

    def close(self) -> None:
        """End the program's input, which ends it. May be repeated."""


class SessionEnded(DockerRunnerError):
    """The relay has ended, or was not reached; the question may be repeated in a new session."""


class NoStreamFree(DockerRunnerError):
    """As many questions are open as the relay takes."""


class QueryProcessEnded(DockerRunnerError):
    """The query process has ended before it answered; the message says how, with its last lines."""


class AnswerUnusable(DockerRunnerError):
    """The query process sent something that is not an answer."""

    def __init__(self, fault: AnswerFault) -> None:
        super().__init__(fault)
        self.fault = fault


class _Asked:
    def __init__(self, limit_bytes: int) -> None:
        self.reader = AnswerReader(limit_bytes)
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()


class RelaySession:
    """Sends questions to the query process of one container. They are independent of each other."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._asked: dict[int, _Asked | None] = {}
        self._closed = False
        self._cancels: set[asyncio.Task[None]] = set()
        self._reading = asyncio.create_task(self._read(), name=f"queries of {name}")

    @property
    def is_over(self) -> bool:
        """Whether no further question can be sent."""
        return self._closed or self._reading.done()

    @property
    def is_idle(self) -> bool:
        """Whether no question is open."""
        return not self._asked

    async def ask(self, request: bytes, limit_bytes: int) -> bytes:
        """Return the body of the answer to the HTTP *request*. A cancelled question is ended in the container as well.

        Raises:
            SessionEnded, NoStreamFree: it was not sent, or the relay ended meanwhile.
            QueryProcessEnded, AnswerUnusable: there is no answer.
        """
        if self.is_over:
            raise SessionEnded("the relay of queries has ended")
        stream = next((number for number in range(STREAMS) if number not in self._asked), None)
        if stream is None:
            raise NoStreamFree("no stream is free")
        asked = self._asked[stream] = _Asked(limit_bytes)
        try:
            await self._channel.write(bytes(Frame(FrameKind.REQUEST, stream, request)))
            return await asked.answered
        except DockerRunnerError as error:
            if isinstance(error, SessionEnded | QueryProcessEnded | AnswerUnusable):
                raise
            raise SessionEnded(str(error)) from error
        finally:
            if self._asked.get(stream) is asked:
                # Until the relay has confirmed it, the stream is not used again.
                self._asked[stream] = None
                self._cancel(stream)

    async def close(self) -> None:
        """End the relay, and with it the query process. May be repeated."""
        self._closed = True
        self._channel.close()
        tasks = [self._reading, *self._cancels]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cancel(self, stream: int) -> None:
        if self.is_over:
            return
        task = asyncio.create_task(self._send_cancel(stream), name="cancel query")
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)

    async def _send_cancel(self, stream: int) -> None:
        try:
            await self._channel.write(bytes(Frame(FrameKind.CANCEL, stream)))
        except DockerRunnerError as error:
            log.debug("a query was not cancelled", reason=str(error))

    async def _read(self) -> None:
        reason = "the relay of queries has ended"
        frames = FrameReader()
        try:
            while data := await self._channel.read():
                for frame in frames.feed(data):
                    self._take(frame)
        except DockerRunnerError as error:
            reason = str(error)
        finally:
            self._channel.close()
            for asked in self._asked.values():
                if asked is not None and not asked.answered.done():
                    asked.answered.set_exception(SessionEnded(reason))

    def _take(self, frame: Frame) -> None:
        if frame.stream not in self._asked:
            return
        asked = self._asked[frame.stream]
        if frame.kind in (FrameKind.END, FrameKind.CRASHED):
            del self._asked[frame.stream]
        if asked is None or asked.answered.done():
            return
        if frame.kind is FrameKind.DATA:
            asked.reader.feed(frame.text)
        elif frame.kind is FrameKind.CRASHED:
            asked.answered.set_exception(QueryProcessEnded(_ending(frame.text)))
            return
        else:
            asked.reader.end()
        if asked.reader.body is not None:
            asked.answered.set_result(asked.reader.body)
        elif asked.reader.fault is not None:
            asked.answered.set_exception(AnswerUnusable(asked.reader.fault))


def _ending(text: bytes) -> str:
    """Return how the query process ended, with its last lines."""
    how, _, output = text.decode("utf-8", "replace").partition("\n")
    lines = [line for line in output.splitlines() if line.strip()][-_TAIL_LINES:]
    last = "\n".join(lines)[-_TAIL_CHARACTERS:]
    return f"{how}; its last output: {last}" if last else how
