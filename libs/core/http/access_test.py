"""Who gets an answer from a server with a token, with an authenticating proxy, and with neither."""

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from libs.core.config.process_settings import HttpSettings
from libs.core.http.app import HttpApp
from libs.core.http.health import Readiness

LOCALHOST = "127.0.0.1"
TOKEN = "sixteen-letters-or-more"
PATHS = ["/", "/api/v1/things"]

Served = Callable[..., AbstractAsyncContextManager[aiohttp.ClientSession]]


async def answer(request: web.Request) -> web.Response:
    return web.json_response({"output": "of a bot"})


@asynccontextmanager
async def served(*accepted: str, **settings: object) -> AsyncIterator[aiohttp.ClientSession]:
    app = HttpApp(HttpSettings.model_validate({"port": 0, "host": LOCALHOST, **settings}), Readiness())
    app.add_routes([web.get(path, answer) for path in PATHS])
    for token in accepted:
        app.accept(token)
    await app.start()
    try:
        async with aiohttp.ClientSession(f"http://{LOCALHOST}:{app.port}") as session:
            yield session
    finally:
        await app.close()


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "given", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic(f"anyone:{TOKEN}"), "Bearer other-token"]
)
async def test_request_with_an_accepted_token_is_answered(path: str, given: str) -> None:
    async with (
        served("other-token", token=TOKEN) as session,
        session.get(path, headers={"Authorization": given}) as response,
    ):
        assert (response.status, await response.json()) == (200, {"output": "of a bot"})


@pytest.mark.parametrize("path", [*PATHS, "/api/v1/unknown", "/healthz/"])
@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        TOKEN,
        "Bearer",
        f"Bearer {TOKEN[1:]}",
        f"Bearer {TOKEN}x",
        f"Digest {TOKEN}",
        basic(TOKEN),
        basic(f"{TOKEN}:"),
        "Basic !",
        "Bearer \u00e4",
    ],
)
async def test_request_without_the_token_is_refused_with_instructions(path: str, given: str | None) -> None:
    headers = {"Authorization": given} if given is not None else {}
    async with served(token=TOKEN) as session, session.get(path, headers=headers) as response:
        text = await response.text()
    assert response.status == 401
    assert "HTTP_TOKEN" in text
    assert "of a bot" not in text
    assert response.headers["WWW-Authenticate"].startswith("Basic ")


async def test_probes_and_metrics_need_no_token() -> None:
    async with served(token=TOKEN) as session:
        statuses = [(await session.get(path)).status for path in ("/healthz", "/readyz", "/metrics")]
    assert statuses == [200, 503, 200]  # nothing has reported that it is ready


async def test_header_of_the_authenticating_proxy_is_enough_and_an_empty_one_is_not() -> None:
    async with served(user_header="X-Forwarded-User") as session:
        statuses = [(await session.get("/", headers={"X-Forwarded-User": user})).status for user in ("ada", "", " ")]
        statuses.append((await session.get("/")).status)
    assert statuses == [200, 401, 401, 401]


async def test_header_that_no_setting_names_is_nothing() -> None:
    async with served(token=TOKEN) as session, session.get("/", headers={"X-Forwarded-User": "ada"}) as response:
        assert response.status == 401


async def test_without_settings_everybody_is_answered() -> None:
    async with served() as session, session.get("/") as response:
        assert response.status == 200


@pytest.mark.parametrize("token", ["short", "with a space in it", ""])
def test_token_that_is_too_weak_is_refused(token: str) -> None:
    with pytest.raises(ValidationError):
        HttpSettings(token=SecretStr(token))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"host": "0.0.0.0"}, 1),
        ({"host": "0.0.0.0", "token": TOKEN}, 0),
        ({"host": LOCALHOST}, 0),
        ({"host": "::1"}, 0),
    ],
)
async def test_open_port_is_logged_unless_only_this_machine_reaches_it(
    settings: dict[str, object], expected: int
) -> None:
    app = HttpApp(HttpSettings.model_validate({"port": 0, **settings}), Readiness())
    with capture_logs() as lines:
        await app.start()
        await app.close()
    assert sum("HTTP_TOKEN" in line.get("remedy", "") for line in lines) == expected
