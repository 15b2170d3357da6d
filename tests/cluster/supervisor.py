"""Keep programs running: restart each when it ends, and reap orphaned processes."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from tests.cluster.daemons import Daemon
from tests.cluster.layout import LOGS

_PAUSE_SECONDS = 1.0
_POLL_SECONDS = 0.1


def supervise(daemons: Sequence[Daemon], kept: Sequence[int] = (), ready: Callable[[], bool] | None = None) -> NoReturn:
    """Start the daemons in order and keep them running until this process is killed.

    Args:
        daemons: each writes to its own log, where its end is noted.
        kept: descriptors for the daemons to inherit.
        ready: awaited between the first daemon and the others.
    """
    running: dict[int, Daemon] = {}
    due = dict.fromkeys(daemons, 0.0)
    while True:
        now = time.monotonic()
        for daemon in [daemon for daemon, at in due.items() if at <= now]:
            if daemon is not daemons[0] and ready is not None and not ready():
                continue
            del due[daemon]
            running[_start(daemon, kept)] = daemon
        while (ended := _reap()) is not None:
            pid, status = ended
            if pid in running:
                again = running.pop(pid)
                _note(again, f"ended with {os.waitstatus_to_exitcode(status)}; starting it again")
                due[again] = time.monotonic() + _PAUSE_SECONDS
        time.sleep(_POLL_SECONDS)


def _start(daemon: Daemon, kept: Sequence[int]) -> int:
    with (LOGS / f"{daemon.name}.log").open("ab") as log:
        process = subprocess.Popen(daemon.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=kept)
    process.returncode = 0  # it is reaped below; Popen would wait for it and warn
    return process.pid


def _reap() -> tuple[int, int] | None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _note(daemon: Daemon, text: str) -> None:
    with (LOGS / f"{daemon.name}.log").open("a") as log:
        log.write(f"supervisor: {daemon.name} {text}\n")
