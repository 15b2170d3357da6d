"""A process beside a local run, which removes its container and its files if the command itself was killed.

`python -m tools.author.local.janitor ENGINE_URL SCOPE FOLDER...`. Its standard input is a pipe from the command, whose
end means that the command is gone; a command that has cleaned up kills it. It imports what it needs only then.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

GRACE_SECONDS = 10
_ROUNDS = 60
_POLL_SECONDS = 1.0
# A create request of the killed command may still be on its way to the engine.
_EMPTY_ROUNDS = 3


def main(arguments: list[str]) -> None:
    """Wait for the command's end, and clean up after it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    url, scope, *folders = arguments
    clean(url, scope, [Path(folder) for folder in folders])


def clean(url: str, scope: str, folders: list[Path]) -> None:
    """Stop and remove the containers of *scope*, and remove *folders*. Retried for a minute; blocks."""
    from docker.errors import DockerException  # the module is slow to import, and needed only here

    empty = 0
    for _ in range(_ROUNDS):
        try:
            empty = 0 if _removed(url, scope) else empty + 1
        except (DockerException, OSError):
            empty = 0
        if empty >= _EMPTY_ROUNDS:
            break
        time.sleep(_POLL_SECONDS)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _removed(url: str, scope: str) -> int:
    import docker
    from docker.errors import NotFound

    client: Any = docker.from_env(environment={**os.environ, "DOCKER_HOST": url}, timeout=GRACE_SECONDS + 30)
    try:
        found = client.containers.list(all=True, filters={"label": f"runtime.scope={scope}"})
        for container in found:
            try:
                # The bot may clean up, as at a stop.
                container.stop(timeout=GRACE_SECONDS)
                container.remove(force=True, v=True)
            except NotFound:
                continue
        return len(found)
    finally:
        client.close()


if __name__ == "__main__":
    main(sys.argv[1:])
