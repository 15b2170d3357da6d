"""HTTP to a Docker engine: its address, one request, one stream, and typed errors.

The Docker SDK blocks, cannot be cancelled, and needs a thread for every container whose output is followed; the engine
uses plain HTTP, for which aiohttp suffices.
"""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from libs.core.errors import Retryable
from libs.core.observability.metrics import observe
from libs.docker_runner.errors import DockerRunnerError, EngineUnavailable

_DEFAULT_URL = "unix:///var/run/docker.sock"
_NEWEST_API = (1, 47)
_CONNECT_SECONDS = 10.0
_MESSAGE_BYTES = 4096
_FRAME_HEADER_BYTES = 8
STALLED_SECONDS = 5.0
"""An engine that answers no request for so long has stalled. Reads then end, so that they are repeated in time."""

Query = Mapping[str, str | int]


class EngineRefused(DockerRunnerError):
    """The engine rejected the request; *status* is the HTTP status."""

    def __init__(self, what: str, status: int, message: str) -> None:
        super().__init__(f"Docker engine: {what}: {message} ({status})")
        self.status, self.message = status, message


class EngineFailed(EngineRefused, Retryable):
    """The engine failed to carry out the request (a status of 500 and more)."""


class EngineHttp:
    """One engine. May be used by many tasks at once.

    Args:
        url: as in DOCKER_HOST; None for that variable, else the default socket.
        timeout_seconds: for a whole answer, unless a call sets another limit.
        stalled_seconds: how long a read waits while the engine answers no request at all.
    """

    def __init__(
        self, url: str | None = None, timeout_seconds: float = 60.0, stalled_seconds: float = STALLED_SECONDS
    ) -> None:
        self.url = url or os.environ.get("DOCKER_HOST") or _DEFAULT_URL
        self._timeout = timeout_seconds
        self._stalled_seconds = stalled_seconds
        self._reads: set[asyncio.Timeout] = set()
        self._session: aiohttp.ClientSession | None = None
        self._prefix: str | None = None

    def socket_group(self) -> int | None:
        """Return the group of the engine's socket; None when it has none, or is not there."""
        parts = urlsplit(self.url)
        if parts.scheme != "unix":
            return None
        try:
            return os.stat(parts.path).st_gid
        except OSError:
            return None

    async def close(self) -> None:
        """Close all connections. May be repeated."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> bytes:
        """Return the body of the answer.

        Args:
            what: the operation in one word, which is the metric's label, and optionally its object, for messages.

        Raises:
            EngineRefused: the engine rejected the request.
            EngineUnavailable: no answer in time, or no answer to a read of an engine that has stalled.
        """
        limit = timeout_seconds or self._timeout
        timeout = aiohttp.ClientTimeout(total=limit, sock_connect=_CONNECT_SECONDS)
        with observe("docker", what.partition(" ")[0], refused=_is_answer):
            async with (
                self._while_it_answers(what, method),
                self._answer(what, method, path, query, body, headers, timeout) as response,
            ):
                return await response.read()

    @asynccontextmanager
    async def stream(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        silence_seconds: float | None = None,
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """Yield the answer's body as a stream; closing the context closes the connection.

        Only the time until its beginning is measured; callers measure the whole.

        Args:
            what: as in :meth:`request`.
            silence_seconds: EngineUnavailable after so long without a byte; None for no limit.

        Raises:
            EngineRefused, EngineUnavailable: as :meth:`request`; the latter also while reading.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=silence_seconds)
        async with AsyncExitStack() as opened:
            with observe("docker", what.partition(" ")[0], refused=_is_answer):
                response = await opened.enter_async_context(
                    self._answer(what, method, path, query, None, headers, timeout)
                )
            opened.callback(response.close)
            yield response.content

    async def upgraded(self, what: str, path: str, body: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the connection that the engine hands over after a POST, for bytes in both directions.

        aiohttp has no way to give a connection away.

        Raises:
            EngineRefused, EngineUnavailable: as :meth:`request`.
        """
        with observe("docker", what.partition(" ")[0], refused=_is_answer):
            writer = None
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    _, prefix = await self._ready()
                    reader, writer = await _connected(self.url)
                    text = json.dumps(body).encode()
                    head = (
                        f"POST {urlsplit(prefix).path}{path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\n"
                        f"Upgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
                    )
                    writer.write(head.encode("ascii") + text)
                    await writer.drain()
                    answer = await reader.readuntil(b"\r\n\r\n")
                    status = int(answer.split(b" ", 2)[1])
                    if status not in (101, 200):
                        kind = EngineFailed if status >= 500 else EngineRefused
                        raise kind(what, status, _message(await reader.read(_MESSAGE_BYTES)))
                    upgraded, writer = writer, None
                    return reader, upgraded
            except TimeoutError as error:
                raise EngineUnavailable(what, "no answer in time") from error
            except (aiohttp.ClientError, OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError) as error:
                raise EngineUnavailable(what, str(error) or type(error).__name__) from error
            finally:
                if writer is not None:
                    writer.close()

    @asynccontextmanager
    async def _while_it_answers(self, what: str, method: str) -> AsyncIterator[None]:
        """End a read in the block when the engine has stalled. A loaded engine answers other requests meanwhile.

        A write may have its effect later, so it is given its whole time.
        """
        if method != "GET":
            yield
            return
        scope = asyncio.timeout(self._stalled_seconds)
        try:
            async with scope:
                self._reads.add(scope)
                try:
                    yield
                finally:
                    self._reads.discard(scope)
        except TimeoutError as error:
            raise EngineUnavailable(what, f"it has not answered any request for {self._stalled_seconds:g} s") from error

    def _has_answered(self) -> None:
        again_at = asyncio.get_running_loop().time() + self._stalled_seconds
        for scope in self._reads:
            if not scope.expired():
                scope.reschedule(again_at)

    @asynccontextmanager
    async def _answer(
        self,
        what: str,
        method: str,
        path: str,
        query: Query | None,
        body: object,
        headers: Mapping[str, str] | None,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            session, prefix = await self._ready()
            async with session.request(
                method, prefix + path, params=query, json=body, headers=headers, timeout=timeout
            ) as response:
                self._has_answered()
                if response.status >= 400:
                    kind = EngineFailed if response.status >= 500 else EngineRefused
                    raise kind(what, response.status, _message(await response.read()))
                yield response
        except TimeoutError as error:
            raise EngineUnavailable(what, "no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            # Another, perhaps newer, engine may come back.
            self._prefix = None
            raise EngineUnavailable(what, str(error) or type(error).__name__) from error

    async def _ready(self) -> tuple[aiohttp.ClientSession, str]:
        if self._session is None:
            connector, self._base = _connector(self.url)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        if self._prefix is None:
            timeout = aiohttp.ClientTimeout(total=self._timeout, sock_connect=_CONNECT_SECONDS)
            async with self._session.get(self._base + "/_ping", timeout=timeout) as response:
                newest = _version(response.headers.get("Api-Version", ""))
            version = min(newest, _NEWEST_API)
            self._prefix = f"{self._base}/v{version[0]}.{version[1]}"
        return self._session, self._prefix


async def read_frame(
    stream: aiohttp.StreamReader | asyncio.StreamReader, what: str, most_bytes: int | None = None
) -> tuple[int, bytes] | None:
    """Return the next piece of output and the number of its stream, such as 2 for stderr; None at the end.

    Raises:
        EngineUnavailable: the connection broke, or the piece is larger than *most_bytes*.
    """
    header = b""
    try:
        header = await stream.readexactly(_FRAME_HEADER_BYTES)
        size = int.from_bytes(header[4:], "big")
        if most_bytes is not None and size > most_bytes:
            raise EngineUnavailable(what, "the answer is no stream")
        return header[0], await stream.readexactly(size)
    except asyncio.IncompleteReadError as error:
        # No bytes at all are the end; part of a frame is a broken stream.
        if header or error.partial:
            raise EngineUnavailable(what, "the stream ended prematurely") from error
        return None
    except aiohttp.ClientPayloadError as error:
        raise EngineUnavailable(what, "the stream ended prematurely") from error


def _is_answer(error: Exception) -> bool:
    """Whether the engine works but rejected the request."""
    return isinstance(error, EngineRefused) and not isinstance(error, EngineFailed)


async def _connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return await asyncio.open_unix_connection(parts.path)
    context = _tls() if parts.scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY") else None
    return await asyncio.open_connection(parts.hostname, parts.port, ssl=context)


def _connector(url: str) -> tuple[aiohttp.BaseConnector, str]:
    """Return the connector for *url* and its base URL, with unlimited connections for streams and calls."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return aiohttp.UnixConnector(path=parts.path, limit=0), "http://docker"
    if parts.scheme in ("tcp", "http", "https"):
        context = _tls() if parts.scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY") else None
        scheme = "https" if context else "http"
        return aiohttp.TCPConnector(limit=0, ssl=context or True), f"{scheme}://{parts.netloc}"
    raise EngineUnavailable(f"connecting to {url!r}", "use unix:///path, tcp://host:port or https://host:port")


def _tls() -> ssl.SSLContext:
    """Return the TLS context with the certificates of DOCKER_CERT_PATH, like Docker's own programs."""
    folder = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    authority = folder / "ca.pem"
    context = ssl.create_default_context(cafile=str(authority) if authority.exists() else None)
    if (folder / "cert.pem").exists():
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    try:
        return int(major), int(minor)
    except ValueError:
        return _NEWEST_API


def _message(body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return str(parsed.get("message", text)) if isinstance(parsed, dict) else text
