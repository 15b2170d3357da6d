"""Listen for HTTP on the configured address, with a bound on open connections."""

import asyncio
import errno
from collections.abc import Awaitable, Callable

from aiohttp import web

from libs.core.observability.log import get_logger

log = get_logger(__name__)

MOST_CONNECTIONS = 250
"""Of one server. Each takes a file and some kilobytes, and a client may send its request as slowly as it likes."""

_CLOSE_SECONDS = 2.0


class _Connections:
    """Closes the oldest connection without a complete request when there would be more than the bound.

    A client that opens as many as it can thus keeps others out for a moment at most, such as a probe of the kubelet.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._answering: set[asyncio.Protocol] = set()
        self._closing: set[asyncio.Protocol] = set()

    @web.middleware
    async def noted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Note that the request's connection awaits an answer."""
        connection = request.protocol
        self._answering.add(connection)
        try:
            return await handler(request)
        finally:
            self._answering.discard(connection)

    def accept(self, server: web.Server) -> asyncio.Protocol:
        """Return what serves a new connection of *server*."""
        self._closing.intersection_update(server.connections)
        connections = [one for one in server.connections if one not in self._closing]
        if len(connections) >= self._most:
            waiting = next((one for one in connections if one not in self._answering), None)
            if waiting is not None:
                self._closing.add(waiting)
                waiting.force_close()
        return server()


class _Site(web.BaseSite):
    """As aiohttp's ``TCPSite``, with bounded connections."""

    def __init__(self, runner: web.AppRunner, host: str, port: int, connections: _Connections) -> None:
        super().__init__(runner)
        self._host, self._port, self._connections = host, port, connections

    @property
    def name(self) -> str:
        """Its address."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises OSError."""
        await super().start()
        server = self._runner.server
        assert server is not None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: self._connections.accept(server), self._host, self._port)


async def listen(app: web.Application, host: str, port: int, *, port_was_chosen: bool, setting: str) -> web.AppRunner:
    """Serve *app*, and return what serves it; the caller cleans it up.

    Args:
        port_was_chosen: whether the port is configured; if a default one is taken, a free port is used instead.
        setting: the name of the port, for a message.

    Raises:
        OSError: the address is not available.
    """
    connections = _Connections(MOST_CONNECTIONS)
    app.middlewares.insert(0, connections.noted)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        try:
            await _Site(runner, host, port, connections).start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port_was_chosen:
                raise
            log.warning("port is taken, using a free one", port=port, remedy=f"set {setting} to choose")
            await _Site(runner, host, 0, connections).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
