"""One port for connections with and without TLS, distinguished by their first byte: gRPC offers only one of both."""

import asyncio
import contextlib
import socket
from dataclasses import dataclass

from libs.core.observability.log import get_logger
from libs.core.transport.peer_limits import PeerLimits, network_of

log = get_logger(__name__)

_HANDSHAKE = 0x16
_FIRST_BYTE_SECONDS = 10.0
_CHUNK_BYTES = 64 * 1024
_BACKLOG = 4096


@dataclass(frozen=True)
class Sockets:
    """The paths of the Unix sockets to which connections are forwarded."""

    encrypted: str
    plain: str


class SharedPort:
    """Listens on a port and forwards each connection, unchanged, to one of two Unix sockets."""

    def __init__(self, sockets: Sockets, limits: PeerLimits) -> None:
        self._sockets = sockets
        self._limits = limits
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> int:
        """Listen, and return the port; 0 selects a free one.

        Raises:
            OSError: the address is not available.
        """
        listening = await asyncio.to_thread(_listen, host, port)
        self._server = await asyncio.start_server(self._accept, sock=listening, limit=_CHUNK_BYTES)
        return int(listening.getsockname()[1])

    async def close(self) -> None:
        """Stop listening and end all connections. May be repeated."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for connection in list(self._connections):
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._serve(reader, writer), name="forward connection")
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = network_of(str((writer.get_extra_info("peername") or ("",))[0]))
        try:
            if (refusal := self._limits.admit(address)) is not None:
                log.warning("connection refused", address=address, reason=refusal)
                return
            try:
                with contextlib.suppress(OSError, TimeoutError):
                    await _forward(reader, writer, self._sockets)
            finally:
                self._limits.release(address)
        finally:
            writer.transport.abort()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sockets: Sockets) -> None:
    async with asyncio.timeout(_FIRST_BYTE_SECONDS):
        first = await reader.read(_CHUNK_BYTES)
    if not first:
        return
    path = sockets.encrypted if first[0] == _HANDSHAKE else sockets.plain
    inner_reader, inner_writer = await asyncio.open_unix_connection(path, limit=_CHUNK_BYTES)
    try:
        inner_writer.write(first)
        directions = [
            asyncio.create_task(_copy(reader, inner_writer), name="forward from client"),
            asyncio.create_task(_copy(inner_reader, writer), name="forward to client"),
        ]
        try:
            # HTTP/2 has no use for a connection of which one direction has ended.
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
    finally:
        inner_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    # What the peer sent last, such as the reason of a refusal, must arrive before the connection ends.
    if writer.can_write_eof():
        writer.write_eof()


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, which on ``::`` accepts IPv4 too, as gRPC's does."""
    if host == "::" and socket.has_dualstack_ipv6():
        try:
            return socket.create_server((host, port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
        except OSError:
            pass  # IPv6 is turned off on this machine
    if host == "::":
        host = "0.0.0.0"  # noqa: S104 - as the setting says
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
