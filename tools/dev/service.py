"""Start a master or a worker as a separate process, like in production."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.dev.http import get_json, hindrances
from tools.stack.process import BackgroundProcess

_READY_SECONDS = 120.0
_POLL_SECONDS = 0.05


class ServiceProcess:
    """`runtime SERVICE ROLE` in the background, with its log in a file.

    Args:
        arguments: such as `["bot-runner", "worker", "--worker-id", "worker-1"]`.
        settings: environment variables in addition to this process's own.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        settings: Mapping[str, str],
        *,
        http_port: int,
        log_path: Path,
        tethered: bool,
    ) -> None:
        self.name = name
        self.http_port = http_port
        # The import path of this process, which in a build sandbox is in no variable.
        search_path = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, **settings, "PYTHONPATH": search_path, "HTTP_PORT": str(http_port)}
        command = [sys.executable, "-P", "-m", "tools.cli", *arguments]
        self.process = BackgroundProcess(name, command, log_path, environment, tethered=tethered)

    def launch(self) -> None:
        """Start it without waiting for it."""
        self.process.launch()

    async def wait_ready(self, within_seconds: float = _READY_SECONDS) -> None:
        """Return when `/readyz` reports that it is ready.

        Raises:
            ProcessFailedError: it ended, or was not ready in time; the message has the reason.
        """
        hindrance = "it does not respond to HTTP"
        try:
            async with asyncio.timeout(within_seconds):
                while True:
                    answer = await get_json(self.http_port, "/readyz")
                    if not self.process.running:
                        raise self.process.failure("did not start")
                    if answer is not None and answer[0] == 200:
                        return
                    if answer is not None:
                        hindrance = hindrances(answer[1])
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise self.process.failure(f"was not ready within {within_seconds:g} s ({hindrance})") from None
