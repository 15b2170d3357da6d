"""Ports that nobody listens on."""

import fcntl
import os
import socket
import tempfile
from pathlib import Path

# Below those that the kernel gives to whoever names none, and to the near end of each connection.
_FIRST, _LAST = 15_000, 29_999
_COUNTER = Path(tempfile.gettempdir()) / f"the0-ports-{os.getuid()}"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free, and that no process of this user is given again for thousands of calls.

    Whoever asked for it may therefore take its time to listen there. Another program may still win it.

    Raises:
        OSError: all ports are taken, or the temporary folder cannot be written to.
    """
    with _COUNTER.open("a+", errors="replace") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # for the moment of counting on
        file.seek(0)
        counted = file.read()
        # Where to go on; whatever else somebody has left there, the count begins anew.
        port = int(counted) if len(counted) == 5 and counted.isascii() and counted.isdigit() else 0
        for _ in range(_FIRST, _LAST + 1):
            port = port + 1 if _FIRST <= port < _LAST else _FIRST
            if is_free(port):
                file.truncate(0)
                file.write(str(port))
                return port
    raise OSError(f"all ports from {_FIRST} to {_LAST} of 127.0.0.1 are taken")


def is_free(port: int) -> bool:
    """Whether *port* of 127.0.0.1 could be bound now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # Servers set this too: a port whose last connections are in TIME_WAIT is free for them.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
