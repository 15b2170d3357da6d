"""Streaming output to clients, which must learn when it ends."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from libs.core.api.log_output import send
from libs.core.config.process_settings import HttpSettings
from libs.core.http.app import HttpApp
from libs.core.http.health import Readiness

LOCALHOST = "127.0.0.1"


class Output:
    """One line, and then nothing. *closed*: its reader has closed it."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        try:
            yield b"one line\n"
            await asyncio.Event().wait()
        finally:
            self.closed.set()


@asynccontextmanager
async def asked(output: Output, *, looks: int) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to a follower of *output*, whose entity moves after so many checks."""
    goes_on = itertools.chain(itertools.repeat(True, looks), itertools.repeat(False))

    async def handle(request: web.Request) -> web.StreamResponse:
        return await send(request, output.pieces(), source="worker", is_known=True, goes_on=lambda: next(goes_on))

    app = HttpApp(HttpSettings(port=0, host=LOCALHOST), Readiness())
    app.add_routes([web.get("/logs", handle)])
    await app.start()
    try:
        async with (
            aiohttp.ClientSession(f"http://{LOCALHOST}:{app.port}") as session,
            session.get("/logs") as response,
        ):
            yield response
    finally:
        await app.close()


async def test_an_output_that_waits_for_more_is_ended_when_it_goes_on_elsewhere() -> None:
    output = Output()

    async with asyncio.timeout(60), asked(output, looks=2) as response:
        content = await response.read()

    assert content == b"one line\n"
    assert output.closed.is_set()


async def test_an_output_is_let_go_of_when_its_reader_has_gone() -> None:
    output = Output()

    async with asyncio.timeout(60), asked(output, looks=1000) as response:
        await response.content.readline()
        response.close()
        await output.closed.wait()

    assert output.closed.is_set()
