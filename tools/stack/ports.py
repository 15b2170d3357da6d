"""Ports that nobody listens on."""

import socket


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago; another process may still win it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


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
