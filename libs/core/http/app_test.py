import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from libs.core.config.process_settings import HttpSettings
from libs.core.http.app import HttpAddressUnusable, HttpApp
from libs.core.http.health import Readiness
from libs.core.http.listening import MOST_CONNECTIONS
from libs.core.observability.metrics import registry
from tests.support.eventually import eventually
from tools.stack.ports import free_port

LOCALHOST = "127.0.0.1"


async def fail(request: web.Request) -> web.Response:
    raise RuntimeError("a secret")


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"for as long as somebody reads")
    return response


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest_asyncio.fixture(loop_scope="session")
async def client(readiness: Readiness) -> AsyncIterator[aiohttp.ClientSession]:
    app = HttpApp(HttpSettings(port=0, host=LOCALHOST), readiness)
    app.add_routes([web.get("/api/v1/things/{name}", fail), web.get("/stream", stream)])
    await app.start()
    async with aiohttp.ClientSession(f"http://{LOCALHOST}:{app.port}") as session:
        yield session
    await app.close()


def is_closed(reader: asyncio.StreamReader) -> bool:
    return reader.at_eof() or reader.exception() is not None


async def test_clients_that_never_end_their_requests_keep_no_other_out_and_end_no_stream(readiness: Readiness) -> None:
    released = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await released.wait()
        return web.Response(text="at last")

    app = HttpApp(HttpSettings(port=0, host=LOCALHOST), readiness)
    app.add_routes([web.get("/slow", slow)])
    await app.start()
    hostile = []
    try:
        async with aiohttp.ClientSession(f"http://{LOCALHOST}:{app.port}") as session:
            answered = asyncio.create_task(session.get("/slow"))
            for _ in range(MOST_CONNECTIONS + 100):
                reader, writer = await asyncio.open_connection(LOCALHOST, app.port)
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
                hostile.append((reader, writer))
            async with (
                aiohttp.ClientSession(f"http://{LOCALHOST}:{app.port}") as other,
                other.get("/healthz") as answer,
            ):
                assert answer.status == 200
            # Not all of the hundred: connections that arrive at one moment are not counted among themselves.
            await eventually(lambda: sum(is_closed(reader) for reader, _ in hostile) >= 50)
            released.set()
            async with await answered as answer:
                assert await answer.text() == "at last"
    finally:
        for _, writer in hostile:
            writer.close()
        await app.close()


async def test_healthz_conforms_to_contract(client: aiohttp.ClientSession) -> None:
    async with client.get("/healthz") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert await response.text() == '{"status": "ok"}'


async def test_readyz_names_missing_dependency(client: aiohttp.ClientSession, readiness: Readiness) -> None:
    readiness.report("mongodb", True)
    readiness.report("storage", False, "no answer from localhost:9000")

    async with client.get("/readyz") as response:
        body = await response.json()
    assert response.status == 503
    assert body["dependencies"]["storage"]["detail"] == "no answer from localhost:9000"
    labels = {"system": "http", "operation": "GET /readyz", "outcome": "error"}
    assert registry.get_sample_value("runtime_operation_seconds_count", labels) is None


async def test_readyz_is_ok_when_all_required_dependencies_are(
    client: aiohttp.ClientSession, readiness: Readiness
) -> None:
    readiness.report("mongodb", True)
    readiness.report("nats", False, "not set", required=False)

    async with client.get("/readyz") as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
    ],
)
async def test_metrics_come_in_the_format_that_is_asked_for(
    client: aiohttp.ClientSession, accept: str, content_type: str
) -> None:
    async with client.get("/metrics", headers={"Accept": accept}) as response:
        assert response.content_type == content_type
        assert "runtime_event_loop_lag_seconds" in await response.text()


async def test_failing_route_reveals_nothing_and_is_counted_by_its_pattern(client: aiohttp.ClientSession) -> None:
    async with client.get("/api/v1/things/b1") as response:
        assert response.status == 500
        assert "secret" not in await response.text()

    labels = {"system": "http", "operation": "GET /api/v1/things/{name}", "outcome": "error"}
    assert registry.get_sample_value("runtime_operation_seconds_count", labels) == 1


async def test_duration_of_stream_is_not_measured(client: aiohttp.ClientSession) -> None:
    async with client.get("/stream") as response:
        assert await response.read() == b"for as long as somebody reads"
    async with client.get("/metrics") as response:
        assert "GET /stream" not in await response.text()


async def test_paths_that_do_not_exist_make_no_metric_of_their_own(client: aiohttp.ClientSession) -> None:
    async with client.get("/coffee/17") as response:
        assert response.status == 404
    async with client.get("/metrics") as response:
        assert "coffee" not in await response.text()


async def test_a_chosen_port_that_is_taken_is_an_error(readiness: Readiness) -> None:
    with socket.create_server((LOCALHOST, 0)) as other:
        port = other.getsockname()[1]
        app = HttpApp(HttpSettings(port=port, host=LOCALHOST), readiness)
        with pytest.raises(HttpAddressUnusable, match=f"{port}.*HTTP_PORT"):
            await app.start()


async def test_a_default_port_that_is_taken_gives_way_to_a_free_one(readiness: Readiness) -> None:
    settings = HttpSettings(host=LOCALHOST)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind((LOCALHOST, settings.port))
            other.listen()
        except OSError:
            pass  # Somebody else has it, which serves as well.
        app = HttpApp(settings, readiness)
        await app.start()
        port = app.port
        await app.close()

    assert port not in (0, settings.port)


async def test_serving_ends_with_its_task_and_frees_the_port(readiness: Readiness) -> None:
    # Not in the range from which the kernel assigns ports to connections.
    app = HttpApp(HttpSettings(port=free_port(), host=LOCALHOST), readiness)
    await app.start()
    serving = asyncio.create_task(app.serve())
    await asyncio.sleep(0)
    serving.cancel()
    await asyncio.wait([serving])
    await app.close()

    with socket.create_server((LOCALHOST, app.port)) as taken:
        assert taken.getsockname()[1] == app.port
