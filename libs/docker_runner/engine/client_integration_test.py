"""Each request to an engine is measured, by its outcome."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from libs.core.observability.metrics import registry
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.events import EventKind
from libs.docker_runner.errors import EngineUnavailable, ImageUnavailable
from tests.support.faults.hostile_texts import corpus
from tests.support.servers.idle_engine import idle_engine


def requests(operation: str, outcome: str) -> float:
    labels = {"system": "docker", "operation": operation, "outcome": outcome}
    return registry.get_sample_value("runtime_operation_seconds_count", labels) or 0


async def test_requests_are_counted_by_operation_and_outcome(tmp_path: Path) -> None:
    expected = {("info", "ok"): 1, ("list", "ok"): 1, ("inspect", "refused"): 2, ("logs", "refused"): 1}
    before = {key: requests(*key) for key in expected}
    async with idle_engine(tmp_path / "engine.sock") as url:
        engine = Engine(url)
        await engine.info()
        await engine.list({})
        assert await engine.inspect("a-bot-of-somebody") is None
        assert await engine.image_id("no-such-image") is None
        with pytest.raises(Exception, match="there is nothing here"):
            [_ async for _ in engine.logs("a-bot-of-somebody")]
        await engine.close()

    assert {key: requests(*key) - before[key] for key in expected} == expected


async def test_an_engine_that_is_away_is_an_error(tmp_path: Path) -> None:
    before = requests("info", "error")
    engine = Engine(f"unix://{tmp_path}/nobody.sock")

    with pytest.raises(EngineUnavailable):
        await engine.info()
    await engine.close()

    assert requests("info", "error") == before + 1


async def test_an_engine_that_does_not_answer_in_time_is_an_error(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(silent, str(tmp_path / "engine.sock")):
        engine = Engine(f"unix://{tmp_path}/engine.sock", timeout_seconds=0.1)
        with pytest.raises(EngineUnavailable, match="no answer in time"):
            await engine.info()
        await engine.close()


@pytest.mark.parametrize("name", sorted(corpus(4096)))
async def test_an_answer_that_makes_no_sense_is_no_answer(tmp_path: Path, name: str) -> None:
    body = corpus(4096)[name]

    async def senseless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await senseless(reader, writer)
        writer.close()

    async with await asyncio.start_unix_server(serve, str(tmp_path / "engine.sock")):
        engine = Engine(f"unix://{tmp_path}/engine.sock", timeout_seconds=30)
        try:
            for question in (engine.inspect("c"), engine.limits("c"), engine.image_id("i"), engine.network_id("n")):
                with pytest.raises(EngineUnavailable):
                    await question
            # What of it has the shape of an answer may be taken for one.
            for asked in (engine.info(), engine.stats("c"), engine.list({}), engine.pull("i", None, 30)):
                with contextlib.suppress(EngineUnavailable, ImageUnavailable):
                    await asked
            with contextlib.suppress(EngineUnavailable):
                assert [event.kind async for event in engine.events({}, 30)] == [EventKind.RESYNC]
        finally:
            await engine.close()


async def test_no_operation_is_named_after_a_container(tmp_path: Path) -> None:
    async with idle_engine(tmp_path / "engine.sock") as url:
        engine = Engine(url)
        await engine.stop("secret-container-name", 1)
        await engine.kill("secret-container-name")
        await engine.remove("secret-container-name")
        await engine.close()

    operations = {sample.labels.get("operation", "") for family in registry.collect() for sample in family.samples}
    assert not any("secret-container-name" in operation for operation in operations)
    assert {"stop", "kill", "remove"} <= operations


@contextlib.asynccontextmanager
async def stalling_engine(socket: Path, answers: asyncio.Event) -> AsyncIterator[str]:
    """An engine that answers lists, and everything else only after *answers* is set."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/_ping":
            return web.Response(text="OK", headers={"Api-Version": "1.47"})
        if not request.path.endswith("/containers/json"):
            await answers.wait()
        return web.json_response([])

    app = web.Application()
    app.add_routes([web.route("*", "/{rest:.*}", answer)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield f"unix://{socket}"
    finally:
        answers.set()
        await runner.cleanup()


async def test_read_ends_when_the_engine_answers_nothing(tmp_path: Path) -> None:
    async with stalling_engine(tmp_path / "engine.sock", asyncio.Event()) as url:
        engine = Engine(url, timeout_seconds=600, stalled_seconds=0.2)
        with pytest.raises(EngineUnavailable, match="not answered any request"):
            await engine.info()
        await engine.close()


async def test_slow_read_goes_on_while_the_engine_answers_other_requests(tmp_path: Path) -> None:
    answers = asyncio.Event()
    async with stalling_engine(tmp_path / "engine.sock", answers) as url:
        engine = Engine(url, timeout_seconds=600, stalled_seconds=3.0)
        reading = asyncio.create_task(engine.inspect("c"))
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            await engine.list({})
            await asyncio.sleep(0.02)
        assert not reading.done()
        reading.cancel()
        await asyncio.wait([reading])
        await engine.close()


async def test_write_has_its_whole_time_at_a_stalled_engine(tmp_path: Path) -> None:
    answers = asyncio.Event()
    async with stalling_engine(tmp_path / "engine.sock", answers) as url:
        engine = Engine(url, timeout_seconds=600, stalled_seconds=0.1)
        writing = asyncio.create_task(engine.kill("c"))
        with pytest.raises(EngineUnavailable):
            await engine.info()
        assert not writing.done()
        answers.set()
        await writing
        await engine.close()
