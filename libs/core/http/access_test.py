"""Access to a server with a token, with an authenticating proxy, and with neither."""

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from libs.core.config.process_settings import HttpSettings
from libs.core.config.settings_loader import load
from libs.core.http.access import Access
from libs.core.http.app import HttpApp
from libs.core.http.health import Readiness
from libs.core.http.reader import HEADER, WHO

LOCALHOST = "127.0.0.1"
TOKEN = "sixteen-letters-or-more"
OTHER_TOKEN = "another-sixteen-letters"
PATHS = ["/", "/api/v1/things"]

Served = Callable[..., AbstractAsyncContextManager[aiohttp.ClientSession]]


async def answer(request: web.Request) -> web.Response:
    return web.json_response({"output": "of a bot"})


async def who(request: web.Request) -> web.Response:
    return web.Response(text=request[WHO])


@asynccontextmanager
async def served(*accepted: str, **settings: object) -> AsyncIterator[aiohttp.ClientSession]:
    app = HttpApp(HttpSettings.model_validate({"port": 0, "host": LOCALHOST, **settings}), Readiness())
    app.add_routes([*(web.get(path, answer) for path in PATHS), web.get("/who", who), web.post("/asked", answer)])
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


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("one.localhost", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8080", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        ("[", 403),
    ],
)
async def test_open_server_answers_only_by_names_of_this_machine(host: str, status: int) -> None:
    async with served() as session:
        for path in PATHS:
            async with session.get(path, headers={"Host": host}) as response:
                assert response.status == status
        async with session.get("/healthz", headers={"Host": host}) as response:
            assert response.status == 200


async def test_server_with_a_token_answers_by_any_name() -> None:
    headers = {"Host": "runtime.example", "Authorization": f"Bearer {TOKEN}"}
    async with served(token=TOKEN) as session, session.get("/", headers=headers) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("site", "status"), [(None, 200), ("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)]
)
async def test_post_that_another_site_has_a_browser_send_is_refused_although_it_has_the_password(
    site: str | None, status: int
) -> None:
    headers = {"Authorization": basic(f"ann:{TOKEN}")} | ({"Sec-Fetch-Site": site} if site else {})
    async with served(token=TOKEN) as session, session.post("/asked", headers=headers) as response:
        assert response.status == status


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


@pytest.mark.parametrize(
    ("trusted", "expected"),
    [
        ("127.0.0.1", 200),
        ("10.0.0.0/8, 127.0.0.0/8", 200),
        ("10.0.0.0/8,::1", 401),
        ("", 401),
    ],
)
async def test_header_is_believed_of_trusted_addresses_alone(trusted: str, expected: int) -> None:
    async with (
        served(user_header="X-Forwarded-User", trusted_proxies=trusted, token=TOKEN) as session,
        session.get("/", headers={"X-Forwarded-User": "ada"}) as response,
    ):
        assert response.status == expected


async def test_two_headers_of_the_proxy_name_no_user() -> None:
    twice = [("X-Forwarded-User", "mallory"), ("X-Forwarded-User", "ada")]
    async with served(user_header="X-Forwarded-User") as session, session.get("/", headers=twice) as response:
        assert response.status == 401


async def test_header_that_no_setting_names_is_nothing() -> None:
    async with served(token=TOKEN) as session, session.get("/", headers={"X-Forwarded-User": "ada"}) as response:
        assert response.status == 401


@pytest.mark.parametrize("host", [LOCALHOST, "localhost"])
async def test_server_on_loopback_needs_no_token(host: str) -> None:
    async with served(host=host) as session, session.get("/") as response:
        assert response.status == 200


@pytest.mark.parametrize("path", [*PATHS, "/api/v1/unknown"])
async def test_server_on_another_address_is_closed_without_settings(path: str) -> None:
    given = {"Authorization": basic(f"anyone:{TOKEN}")}
    async with served(host="0.0.0.0") as session:
        answers = [await session.get(path, headers=headers) for headers in ({}, given, {"X-Forwarded-User": "ada"})]
        texts = [await answer.text() for answer in answers]
        open_paths = [(await session.get(path)).status for path in ("/healthz", "/metrics")]

    assert [answer.status for answer in answers] == [401, 401, 401]
    assert all("HTTP_TOKEN" in text and "of a bot" not in text for text in texts)
    # A browser would ask for a password that does not exist.
    assert answers[0].headers["WWW-Authenticate"].startswith("Bearer ")
    assert open_paths == [200, 200]


async def test_closed_server_answers_other_processes_of_the_runtime() -> None:
    async with served("of-another-process", host="0.0.0.0") as session:
        answer_ = await session.get("/", headers={"Authorization": "Bearer of-another-process"})
    assert answer_.status == 200


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Authorization": "Bearer of-another-process", HEADER: "ann%20b"}, "ann b"),
        ({"Authorization": "Bearer of-another-process"}, "token"),
        # Only a process may name another user.
        ({"Authorization": f"Bearer {TOKEN}", HEADER: "ann"}, "token"),
        ({"Authorization": basic(f"carl:{TOKEN}"), HEADER: "ann"}, "token:carl"),
        ({"Authorization": "Bearer of-another-process", HEADER: "ann", "X-Forwarded-User": "dora"}, "dora"),
    ],
)
async def test_name_of_the_reader_is_as_proven(headers: dict[str, str], expected: str) -> None:
    async with served("of-another-process", token=TOKEN, user_header="X-Forwarded-User") as session:
        found = await (await session.get("/who", headers=headers)).text()
    assert found == expected


@pytest.mark.parametrize("token", ["short", "with a space in it", ""])
def test_token_that_is_too_weak_is_refused(token: str) -> None:
    with pytest.raises(ValidationError):
        HttpSettings(token=SecretStr(token))


@pytest.mark.parametrize("proxies", ["10.0.0.1/8", "proxy.example.com", "10.0.0.1:80"])
def test_proxy_that_is_no_address_or_network_is_refused(proxies: str) -> None:
    with pytest.raises(ValidationError, match="trusted_proxies"):
        HttpSettings.model_validate({"trusted_proxies": proxies})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"host": "0.0.0.0"}, 1),
        ({"host": "0.0.0.0", "token": TOKEN}, 0),
        ({"host": "0.0.0.0", "user_header": "X-Forwarded-User"}, 0),
        ({"host": LOCALHOST}, 0),
        ({"host": "::1"}, 0),
    ],
)
async def test_closed_server_logs_how_it_is_opened(settings: dict[str, object], expected: int) -> None:
    app = HttpApp(HttpSettings.model_validate({"port": 0, **settings}), Readiness())
    with capture_logs() as lines:
        await app.start()
        await app.close()
    assert sum("HTTP_TOKEN" in line.get("remedy", "") for line in lines) == expected


@pytest.mark.parametrize("host", ["127.0.0.1.example.com", "127.example.com", "::", "0.0.0.0", "10.0.0.1"])
def test_only_loopback_addresses_are_private(host: str) -> None:
    assert not HttpSettings(host=host).is_private


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_addresses_are_private(host: str) -> None:
    assert HttpSettings(host=host).is_private


async def test_token_of_a_file_is_replaced_while_the_server_runs(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    settings = load(HttpSettings, environ={"HTTP_TOKEN_FILE": str(file), "HTTP_HOST": LOCALHOST, "HTTP_PORT": "0"})

    async with served(**settings.model_dump(exclude_unset=True)) as session:

        async def status(token: str) -> int:
            async with session.get("/", headers={"Authorization": f"Bearer {token}"}) as response:
                return response.status

        before = await status(TOKEN), await status(OTHER_TOKEN)
        replace(file, OTHER_TOKEN)
        after = await status(TOKEN), await status(OTHER_TOKEN)
        replace(file, "short")
        invalid = await status("short"), await status(OTHER_TOKEN)

    assert (before, after, invalid) == ((200, 401), (401, 200), (401, 200))


def test_token_that_a_mounted_secret_lacks_closes_the_server(tmp_path: Path) -> None:
    settings = load(HttpSettings, environ={"HTTP_TOKEN_FILE": str(tmp_path / "http-token")})

    assert Access(settings).is_closed


def test_token_variable_comes_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(OTHER_TOKEN)

    settings = load(HttpSettings, environ={"HTTP_TOKEN": TOKEN, "HTTP_TOKEN_FILE": str(tmp_path / "token")})

    assert settings.token is not None
    assert (settings.token.get_secret_value(), settings.token_file) == (TOKEN, None)


def replace(file: Path, text: str) -> None:
    """Replace a file as Kubernetes does: another one under its name."""
    other = file.with_suffix(".new")
    other.write_text(text)
    other.rename(file)
