"""A user's terminal: runs the `runtime` command as a separate process, with its own home folder."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Done:
    """The result of a command."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


class Terminal:
    """Runs commands like a user.

    Args:
        home: the folder of the user's `dev` stack.
        settings: the user's environment variables.
    """

    def __init__(self, home: Path, settings: Mapping[str, str] | None = None) -> None:
        self.home = home
        servers = ("MONGO_URI", "NATS_URL", "MINIO_ENDPOINT")
        self._environment = {name: value for name, value in os.environ.items() if name not in servers}
        self._environment |= {"RUNTIME_HOME": str(home), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._environment |= settings or {}

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start a command."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tools.cli", *arguments),
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str) -> Done:
        """Run a command to its end."""
        process = await self.start(*arguments)
        out, err = await process.communicate()
        return Done(process.returncode or 0, out.decode(), err.decode())

    async def succeed(self, *arguments: str) -> Done:
        """Run a command that must end with exit code 0."""
        done = await self.run(*arguments)
        assert done.code == 0, done
        return done


@contextlib.asynccontextmanager
async def followed(terminal: Terminal, *command: str) -> AsyncIterator[list[str]]:
    """Return the lines that *command* has printed so far, while it runs; it ends with the block."""
    process = await terminal.start(*command)
    lines: list[str] = []

    async def read() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            lines.append(line.decode().rstrip())

    reading = asyncio.create_task(read())
    try:
        yield lines
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has already ended
            process.terminate()
        await process.wait()
        await reading
        process._transport.close()  # type: ignore[attr-defined]  # its standard error was not read
