"""The description of each process's API: valid, and neither more nor less than what is answered."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from openapi_spec_validator import OpenAPIV31SpecValidator

from libs.core.api.paths import DESCRIPTION
from libs.core.config.process_settings import HttpSettings
from libs.core.http.app import HttpApp
from libs.core.http.health import Readiness
from libs.core.master.api import MasterApi
from libs.core.worker.api import WorkerApi

APIS: dict[str, type[MasterApi] | type[WorkerApi]] = {"master": MasterApi, "worker": WorkerApi}


@pytest_asyncio.fixture(params=APIS, loop_scope="session")
async def session(request: pytest.FixtureRequest) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a process that starts: it waits for MongoDB still."""
    app = HttpApp(HttpSettings(port=0, host="127.0.0.1"), Readiness())
    app.add_routes(APIS[request.param]().routes())
    await app.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{app.port}") as session:
        yield session
    await app.close()


async def described(session: aiohttp.ClientSession) -> dict[str, Any]:
    async with session.get(DESCRIPTION) as answer:
        return dict(await answer.json())


async def test_the_description_is_valid(session: aiohttp.ClientSession) -> None:
    assert list(OpenAPIV31SpecValidator(await described(session)).iter_errors()) == []


@pytest.mark.parametrize("api", APIS.values(), ids=APIS)
def test_every_route_is_described_and_every_description_has_a_route(api: type[MasterApi] | type[WorkerApi]) -> None:
    made = api()
    described: Any = made.description()

    routes = {route.path.replace("{id:[^/]+}", "{id}") for route in made.routes()}  # type: ignore[attr-defined]
    assert routes == set(described["paths"])


async def test_starting_process_answers_503_on_every_path(session: aiohttp.ClientSession) -> None:
    for path in (await described(session))["paths"]:
        if path != DESCRIPTION:
            async with session.get(path.replace("{id}", "x")) as answer:
                assert answer.status == 503, path
                assert "is starting" in (await answer.json())["error"]


async def test_unknown_path_answers_json_error(session: aiohttp.ClientSession) -> None:
    async with session.get("/api/v1/coffee") as answer:
        assert (answer.status, answer.content_type) == (404, "application/json")
        assert DESCRIPTION in (await answer.json())["error"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_api_rejects_writing_methods(session: aiohttp.ClientSession, method: str) -> None:
    async with session.request(method, "/api/v1/entities/x/logs") as answer:
        assert answer.status == 405
        assert "GET" in answer.headers["Allow"]


async def test_no_answer_is_kept_framed_or_taken_for_something_else(session: aiohttp.ClientSession) -> None:
    async with session.get("/api/v1/status") as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "aiohttp" not in answer.headers["Server"]
