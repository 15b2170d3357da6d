"""NATS with JetStream on this machine."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tools.stack import binaries
from tools.stack.server import EmbeddedServer


class NatsServer(EmbeddedServer):
    """nats-server with its streams in the folder."""

    name: ClassVar[str] = "nats-server"

    @property
    def url(self) -> str:
        """The value for NATS_URL."""
        return f"nats://{self.address}"

    def _command(self) -> Sequence[str | Path]:
        store = self.directory / "data"
        return [binaries.nats_server(), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", store]

    async def _answers(self) -> bool:
        """Read the line with which the server greets each client, and which lists its features."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            greeting = await asyncio.wait_for(reader.readline(), 5)
            return greeting.startswith(b"INFO ") and json.loads(greeting[5:]).get("jetstream") is True
        except (OSError, ValueError, TimeoutError):
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):  # it ended meanwhile
                await writer.wait_closed()
