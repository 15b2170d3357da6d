"""Unused ports."""

import fcntl
import os
import socket
import tempfile
from pathlib import Path

# Below the range that the kernel uses for unspecified ports and for the local end of each connection.
_FIRST, _LAST = 15_000, 29_999
_COUNTER = Path(tempfile.gettempdir()) / f"the0-ports-{os.getuid()}"


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1, which is not returned again to this user's processes for thousands of calls.

    The caller may therefore take its time to listen on it. Another program may still take it.

    Raises:
        OSError: all ports are taken, or the temporary folder cannot be written to.
    """
    with _COUNTER.open("a+", errors="replace") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # while incrementing the counter
        file.seek(0)
        counted = file.read()
        # The next port; with any other content the counter starts again.
        port = int(counted) if len(counted) == 5 and counted.isascii() and counted.isdigit() else 0
        for _ in range(_FIRST, _LAST + 1):
            port = port + 1 if _FIRST <= port < _LAST else _FIRST
            if is_free(port):
                file.truncate(0)
                file.write(str(port))
                return port
    raise OSError(f"all ports from {_FIRST} to {_LAST} of 127.0.0.1 are taken")


def is_free(port: int) -> bool:
    """Return whether *port* of 127.0.0.1 could be bound now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # Servers set this too: a port whose last connections are in TIME_WAIT is free for them.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
