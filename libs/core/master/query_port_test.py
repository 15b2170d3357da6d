"""The query port: the address on which it listens, and the requests that it admits."""

import aiohttp
import pytest
from pydantic import SecretStr

from libs.core.config.process_settings import HttpSettings
from libs.core.config.query_settings import QuerySettings
from libs.core.master.query_port import PATH, QueryAddressUnusable, QueryHandler, QueryPort

LOCALHOST = "127.0.0.1"
TOKEN = "sixteen-letters-or-more"


def http_settings(host: str = LOCALHOST, token: str | None = None) -> HttpSettings:
    return HttpSettings(port=0, host=host, token=SecretStr(token) if token else None)


async def asked(port: QueryPort, token: str = "", method: str = "POST", path: str = PATH) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"http://{LOCALHOST}:{port.port}{path}"
    async with aiohttp.ClientSession(headers=headers) as session, session.request(method, url, data=b"{}") as answer:
        return answer.status, str((await answer.json())["error"])


async def test_default_port_that_is_taken_is_replaced_by_a_free_one() -> None:
    first = QueryPort(QuerySettings(port=0), http_settings(), QueryHandler())
    await first.start()
    default = QuerySettings.model_construct(set(), **{**dict(QuerySettings()), "port": first.port})
    second = QueryPort(default, http_settings(), QueryHandler())

    await second.start()

    assert second.port not in (0, first.port)
    for port in (first, second):
        await port.close()


async def test_chosen_port_that_is_taken_is_an_error() -> None:
    first = QueryPort(QuerySettings(port=0), http_settings(), QueryHandler())
    await first.start()

    with pytest.raises(QueryAddressUnusable, match="set QUERY_PORT"):
        await QueryPort(QuerySettings(port=first.port), http_settings(), QueryHandler()).start()

    await first.close()


@pytest.mark.parametrize(
    ("host", "query_host", "token", "given", "status"),
    [
        ("0.0.0.0", None, None, "", 401),
        ("0.0.0.0", LOCALHOST, None, "", 503),
        (LOCALHOST, None, None, "", 503),
        (LOCALHOST, "0.0.0.0", None, "", 401),
        ("0.0.0.0", None, TOKEN, "", 401),
        ("0.0.0.0", None, TOKEN, "another-token-than-that", 401),
        ("0.0.0.0", None, TOKEN, TOKEN, 503),
    ],
)
async def test_off_loopback_the_token_is_required(
    host: str, query_host: str | None, token: str | None, given: str, status: int
) -> None:
    port = QueryPort(QuerySettings(port=0, host=query_host), http_settings(host, token), QueryHandler())
    await port.start()

    assert (await asked(port, given))[0] == status

    await port.close()


@pytest.mark.parametrize(("method", "path", "status"), [("GET", PATH, 405), ("POST", "/other", 404)])
async def test_other_requests_are_refused_with_the_right_one(method: str, path: str, status: int) -> None:
    port = QueryPort(QuerySettings(port=0), http_settings(), QueryHandler())
    await port.start()

    found, error = await asked(port, method=method, path=path)

    assert (found, error.partition(": ")[2]) == (status, "queries are asked by POST /query")
    await port.close()
