"""The folder of one local run, locked while its command or its janitor runs; and what killed ones have left."""

import asyncio
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.author.local import janitor

_PREFIX = "local-"
_LOCK = "lock"


@dataclass
class Workplace:
    """The place of one run. *scope* labels its container, and is the name of *folder*.

    Attributes:
        memory: a folder in memory, for its keepalive file and the values of its secrets.
        is_vacant: whether there is certainly no container; otherwise the janitor removes it.
    """

    scope: str
    folder: Path
    memory: Path
    is_vacant: bool = True


@asynccontextmanager
async def workplace(parent: Path, memory: Path, engine_url: str) -> AsyncIterator[Workplace]:
    """Make the folder of a run below *parent*, with a janitor. It is removed after the block.

    Args:
        memory: the parent of folders in memory.
    """
    await asyncio.to_thread(remove_abandoned, parent, memory, engine_url)
    place, lock = await asyncio.to_thread(_make, parent, memory)
    watching = _start_janitor(place, engine_url, lock)
    try:
        yield place
    finally:
        if place.is_vacant:
            for folder in (place.folder, place.memory):
                shutil.rmtree(folder, ignore_errors=True)
            watching.kill()
            watching.wait()
        else:
            watching.returncode = 0  # it outlives this process; Popen would warn
        assert watching.stdin is not None
        watching.stdin.close()
        os.close(lock)


def _make(parent: Path, memory: Path) -> tuple[Workplace, int]:
    """Return a new place, and the descriptor of its lock."""
    scope = f"{_PREFIX}{secrets.token_hex(6)}"
    place = Workplace(scope, parent / scope, memory / scope)
    for folder in (place.folder, place.memory):
        folder.mkdir(mode=0o700, parents=True)
    lock = os.open(place.folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return place, lock


def remove_abandoned(parent: Path, memory: Path, engine_url: str) -> None:
    """Remove what runs have left whose command and janitor were both killed. Blocks."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            janitor.clean(engine_url, folder.name, [folder, memory / folder.name])
        except BlockingIOError:
            # It runs.
            continue
        finally:
            os.close(lock)


def _start_janitor(place: Workplace, engine_url: str, lock: int) -> "subprocess.Popen[bytes]":
    # The import path of this process, which in a build sandbox is in no variable.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    folders = [str(place.folder), str(place.memory)]
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", "-m", janitor.__name__, engine_url, place.scope, *folders],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # It keeps the lock for as long as it works, and Ctrl-C does not reach it.
        pass_fds=[lock],
        start_new_session=True,
    )
