"""Sessions of a worker with the bots that it queries. Their relays answer each request at once."""

import asyncio
from dataclasses import replace
from typing import Any

from libs.core.config.query_settings import QuerySettings
from libs.core.queries.messages import Query
from libs.docker_runner.containers.container import ContainerState, ManagedContainer
from libs.docker_runner.queries.frames import Frame, FrameKind, FrameReader
from libs.docker_runner.worker.queries import WorkerQueries
from tests.support.eventually import eventually
from tests.support.fakes.log_host import a_container

ANSWER = b'HTTP/1.0 200 OK\r\n\r\n{"status": "ok"}'
QUERY = Query("b", "/", "{}", 60.0, 1)


class Relay:
    """The channel to the relay in a bot's container."""

    def __init__(self) -> None:
        self._frames = FrameReader()
        self._sent: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(self) -> bytes:
        return await self._sent.get()

    async def write(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            answer = [Frame(FrameKind.DATA, frame.stream, ANSWER), Frame(FrameKind.END, frame.stream)]
            self._sent.put_nowait(b"".join(map(bytes, answer)))

    def close(self) -> None:
        self._sent.put_nowait(b"")


class Runner:
    """As much of a `DockerRunner` as the queries of a running bot need."""

    def __init__(self) -> None:
        self.relays: list[Relay] = []
        self.may_list = asyncio.Event()

    async def list(self, service: str, scope: str, segment: int | None = None) -> list[ManagedContainer]:
        await self.may_list.wait()
        return [replace(a_container("c", "b", 1), state=ContainerState.RUNNING, query_user=30_001)]

    async def relay(self, container: ManagedContainer) -> Relay:
        self.relays.append(Relay())
        return self.relays[-1]

    async def masked_answer(self, container: ManagedContainer, body: bytes) -> bytes:
        return body


async def rounds() -> None:
    """Let the other tasks run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_concurrent_queries_share_one_session_although_the_upkeep_removes_the_one_before() -> None:
    fake = Runner()
    runner: Any = fake
    unused: Any = None
    queries = WorkerQueries(
        runner, unused, QuerySettings(), service="s", scope="x", executables=unused, runs_beside=True
    )
    fake.may_list.set()
    await queries.answer(QUERY)
    fake.may_list.clear()
    fake.relays[0].close()
    await eventually(lambda: queries._sessions["b"].session.is_over)

    first = asyncio.create_task(queries.answer(QUERY))
    await rounds()
    upkeep = asyncio.create_task(queries._look_at_sessions())
    await rounds()
    second = asyncio.create_task(queries.answer(QUERY))
    await rounds()
    fake.may_list.set()
    answers = await asyncio.gather(first, second)
    await upkeep

    assert [answer.fault for answer in answers] == [None, None]
    assert len(fake.relays) == 2
    assert not queries._sessions["b"].session.is_over
    await queries._close("b")
    assert len(queries._opening) == 0
