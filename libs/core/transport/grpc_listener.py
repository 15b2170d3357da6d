"""The listening side of gRPC: without TLS, with it, or both on one port."""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from libs.core.errors import UserError
from libs.core.observability.log import get_logger
from libs.core.process.isolation import repeat
from libs.core.transport.peer_limits import PeerLimits
from libs.core.transport.port_sharing import SharedPort, Sockets
from libs.core.transport.security import Options, TransportSecurity

log = get_logger(__name__)

_CHECK_SECONDS = 2.0


class PortTaken(UserError):
    """The server cannot listen on the gRPC port."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"cannot listen on {address} for workers: {reason}; set GRPC_PORT to a free port, "
            "or GRPC_HOST to an address of this machine"
        )


class GrpcListener:
    """A gRPC server at one address. When the authorities of peers change it closes all connections and goes on.

    Args:
        address: ``host:port``; port 0 selects a free one.
        register: adds the services to a new server.
        limits: of connections from one address, where one port is shared; otherwise the caller counts streams.
    """

    def __init__(
        self,
        address: str,
        security: TransportSecurity,
        register: Callable[[grpc.aio.Server], None],
        *,
        options: Options,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        limits: PeerLimits,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._host, self.port = host.strip("[]"), int(port)
        self._security = security
        self._register = register
        self._options = options
        self._interceptors = interceptors
        self._limits = limits
        self._server: grpc.aio.Server | None = None
        self._shared: SharedPort | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._following: asyncio.Task[None] | None = None
        self._authorities: bytes | None = None

    async def start(self) -> None:
        """Listen. Afterwards `port` is the actual port.

        Raises:
            PortTaken: the address is not available.
        """
        self._authorities = self._current_authorities()
        if self._security.mode == "allow":
            # Only this user may enter the folder, and so connect to the sockets.
            self._folder = tempfile.TemporaryDirectory(prefix="the0-grpc-")
            await self._serve()
            self._shared = SharedPort(self._sockets, self._limits)
            try:
                self.port = await self._shared.open(self._host, self.port)
            except OSError as error:
                await self.stop(0)
                raise PortTaken(self._address, error.strerror or str(error)) from None
        else:
            await self._serve()
        if self._security.mode != "off":
            following = repeat("follow the authorities", self._follow, _CHECK_SECONDS)
            self._following = asyncio.create_task(following, name="follow the authorities")

    async def stop(self, grace_seconds: float) -> None:
        """Stop listening, and end streams that do not end within *grace_seconds*. May be repeated."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.wait([following])
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace_seconds)
        shared, self._shared = self._shared, None
        if shared is not None:
            await shared.close()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    @property
    def _address(self) -> str:
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    @property
    def _sockets(self) -> Sockets:
        folder = Path(self._folder.name if self._folder is not None else "")
        return Sockets(encrypted=str(folder / "tls"), plain=str(folder / "plain"))

    def _current_authorities(self) -> bytes | None:
        certificates = self._security.certificates
        return certificates.value.authorities if certificates is not None else None

    async def _serve(self) -> None:
        server = grpc.aio.server(options=self._options, interceptors=self._interceptors)
        try:
            self._register(server)
            self._add_ports(server)
            await server.start()
        except BaseException:
            # gRPC ends the process if a server is collected as garbage before it has stopped.
            await server.stop(0)
            raise
        self._server = server

    def _add_ports(self, server: grpc.aio.Server) -> None:
        try:
            if self._security.mode == "off":
                self.port = server.add_insecure_port(self._address)
            elif self._security.mode == "require":
                self.port = server.add_secure_port(self._address, self._security.server_credentials())
            else:
                server.add_insecure_port(f"unix:{self._sockets.plain}")
                server.add_secure_port(f"unix:{self._sockets.encrypted}", self._security.server_credentials())
        except RuntimeError as error:
            raise PortTaken(self._address, str(error)) from None

    async def _follow(self) -> None:
        """Close all connections if the authorities have changed: peers of a removed one must not stay."""
        current = self._current_authorities()
        if current == self._authorities:
            return
        log.info("the authorities of workers have changed; all connections are opened again")
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0)
        await self._serve()
        # Only now: if it cannot listen, the next round tries again.
        self._authorities = current
