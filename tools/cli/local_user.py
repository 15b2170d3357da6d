"""The user of a command, for the audit record."""

import getpass
import socket


def user_of_this_machine() -> str:
    """Return the name of the user and of this machine, as `ann@laptop`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A user without a name, as in a container.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
