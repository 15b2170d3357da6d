"""Forward a standby's requests that only the leader can answer, so that any master may be asked."""

import asyncio
from collections.abc import Callable, Mapping

import aiohttp
from aiohttp import web
from yarl import URL

from libs.core.api.remote_output import new_session
from libs.core.http.reader import HEADER, WHO, header_of
from libs.core.master.leader_directory import LeaderDirectory
from libs.core.observability.log import get_logger
from libs.core.store.processes import KnownProcess, bracketed

log = get_logger(__name__)

FORWARDED = "X-The0-Forwarded"
"""Header of a forwarded request. It is never forwarded again: two masters may take each other for the leader."""

_ANSWER_SECONDS = 4.0
_MOST_BYTES = 64 * 1024 * 1024
# They concern one connection (RFC 9110, 7.6.1), or are set anew.
_OF_ONE_CONNECTION = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class LeaderProxy:
    """Asks the leader on behalf of a client that this master has admitted.

    It presents the leader's own token and names the client. Leaders of older versions have none: they receive the
    client's credentials.
    """

    def __init__(self, directory: LeaderDirectory) -> None:
        self._directory = directory
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections. Closing twice is harmless."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def answer(self, request: web.Request) -> web.Response | None:
        """Return the leader's answer; None when this master has to answer, since no other one leads or can be asked."""
        if request.method not in ("GET", "HEAD"):
            return None
        # One that no longer leads, or has another token, is of no more use than this master.
        return await self._forwarded(
            request, request.rel_url.raw_path_qs, _ANSWER_SECONDS, lambda answer: answer.status in (200, 400, 404)
        )

    async def posted(
        self, request: web.Request, path: str, body: bytes, timeout_seconds: float, *, answered: str
    ) -> web.Response | None:
        """Return the leader's answer to the POST *request* at *path*; None when no leader answers.

        Args:
            body: that of the request.
            timeout_seconds: the time that the leader itself takes at most.
            answered: the header by which its answer is known.
        """
        limit_seconds = timeout_seconds + _ANSWER_SECONDS
        return await self._forwarded(request, path, limit_seconds, lambda answer: answered in answer.headers, body)

    async def _forwarded(
        self,
        request: web.Request,
        path: str,
        limit_seconds: float,
        is_usable: Callable[[aiohttp.ClientResponse], bool],
        body: bytes | None = None,
    ) -> web.Response | None:
        if FORWARDED in request.headers or (leader := await self._directory.find()) is None:
            return None
        try:
            async with asyncio.timeout(limit_seconds):
                return await self._first_answer(leader, request, path, is_usable, body)
        except TimeoutError:
            log.debug("the leader does not answer in time", leader=leader.name)
            return None

    async def _first_answer(
        self,
        leader: KnownProcess,
        request: web.Request,
        path: str,
        is_usable: Callable[[aiohttp.ClientResponse], bool],
        body: bytes | None,
    ) -> web.Response | None:
        if self._session is None:
            self._session = new_session()
        headers = [*_proven(request, leader.token), (FORWARDED, "1")]
        for address in leader.addresses:
            url = URL(f"http://{bracketed(address)}:{leader.http_port}{path}", encoded=True)
            try:
                async with self._session.request(
                    request.method, url, headers=headers, data=body, allow_redirects=False
                ) as answer:
                    if is_usable(answer):
                        return await _copied(answer)
            except (aiohttp.ClientError, OSError) as error:
                log.debug("the leader was not reached", leader=leader.name, url=str(url), reason=str(error))
        return None


async def _copied(answer: aiohttp.ClientResponse) -> web.Response | None:
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > _MOST_BYTES:
            return None
    return web.Response(status=answer.status, body=bytes(body), headers=_passed_on(answer.headers))


def _proven(request: web.Request, token: str) -> list[tuple[str, str]]:
    headers = _passed_on(request.headers)
    if not token:
        return headers
    own = {"Authorization": f"Bearer {token}", **header_of(request.get(WHO, ""))}
    replaced = {"authorization", HEADER.lower()}
    return [*((name, value) for name, value in headers if name.lower() not in replaced), *own.items()]


def _passed_on(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    dropped = _OF_ONE_CONNECTION | {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return [(name, value) for name, value in headers.items() if name.lower() not in dropped]
