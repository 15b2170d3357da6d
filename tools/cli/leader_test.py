"""Requests of the `runtime` command to a leading master whose HTTP server requires a token."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from libs.core.config.process_settings import HttpSettings
from libs.core.http.app import HttpApp
from libs.core.http.health import Readiness
from libs.core.http.reader import WHO
from tools.cli.leader import Leader
from tools.cli.local_user import user_of_this_machine

OWN = "the-token-of-this-master"
HTTP_TOKEN = "sixteen-letters-or-more"


async def status(request: web.Request) -> web.Response:
    return web.json_response({"leads": True, "workers": [{"read_by": request[WHO]}]})


@pytest_asyncio.fixture(loop_scope="session")
async def url() -> AsyncIterator[str]:
    app = HttpApp(HttpSettings.model_validate({"port": 0, "host": "127.0.0.1", "token": HTTP_TOKEN}), Readiness())
    app.add_routes([web.get("/api/v1/status", status)])
    app.accept(OWN)
    await app.start()
    yield f"http://127.0.0.1:{app.port}"
    await app.close()


@pytest.mark.parametrize(("token", "reader"), [(OWN, user_of_this_machine()), (HTTP_TOKEN, "token")])
async def test_leader_answers_its_own_token_and_http_token(url: str, token: str, reader: str) -> None:
    assert await Leader("m", [url], token).workers() == [{"read_by": reader}]


async def test_leader_is_unknown_without_a_token(url: str) -> None:
    assert await Leader("m", [url]).workers() is None
