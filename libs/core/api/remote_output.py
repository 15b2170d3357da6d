"""Request an entity's output from the worker that owns it, or from any worker that can read the storage."""

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from libs.core.api.paths import PREFIX, encoded
from libs.core.http.reader import header_of
from libs.core.observability.log import get_logger
from libs.core.store.processes import KnownProcess, ProcessStore

log = get_logger(__name__)

_CONNECT_SECONDS = 1.0
_ANSWER_SECONDS = 6.0
_OTHERS = 3


async def who_to_ask(processes: ProcessStore, segment_id: int | None) -> list[KnownProcess]:
    """Return the owner of the segment first, then a few other workers. Raises StoreUnavailable."""
    owner = await processes.owner(segment_id) if segment_id is not None else None
    others = await processes.some("worker", _OTHERS + 1)
    return [*([owner] if owner is not None else []), *(worker for worker in others if worker != owner)][: _OTHERS + 1]


def new_session() -> aiohttp.ClientSession:
    """Return a session for :func:`ask`; the caller closes it."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
    # Bypass a proxy of the environment: workers are in the same network.
    return aiohttp.ClientSession(timeout=timeout, trust_env=False, auto_decompress=False)


async def ask(
    session: aiohttp.ClientSession,
    workers: Sequence[KnownProcess],
    entity_id: str,
    *,
    tail: int,
    follow: bool,
    who: str,
    more: Mapping[str, str] | None = None,
) -> aiohttp.ClientResponse | None:
    """Return the first answer of these workers, which shows whether the entity exists; None when none answers.

    The caller closes it.

    Args:
        who: on whose behalf, for the audit record.
        more: further parameters of the operation.
    """
    parameters = {"tail": str(tail), "follow": "true" if follow else "false", **(more or {})}
    path = f"{PREFIX}/entities/{encoded(entity_id)}/logs?{urlencode(parameters)}"
    for worker in workers:
        for url in worker.urls:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    answer = await session.get(
                        URL(f"{url}{path}", encoded=True),
                        headers={"Authorization": f"Bearer {worker.token}", **header_of(who)},
                        allow_redirects=False,
                    )
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                log.debug("a worker was not reached", worker=worker.name, url=url, reason=str(error))
                continue
            if answer.status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
                return answer
            answer.close()
    return None


async def next_piece(answer: aiohttp.ClientResponse) -> bytes:
    """Return the next piece of the output; empty when the worker ended it or disconnected."""
    try:
        return await answer.content.readany()
    except (aiohttp.ClientError, RuntimeError) as error:
        # aiohttp raises the latter when the connection broke between two reads.
        log.debug("a worker's output ended prematurely", reason=str(error))
        return b""
