"""The user of a command: for the audit record, and as an owner."""

import getpass
import socket


def user_of_this_machine() -> str:
    """Return the name of the user and of this machine, as `ann@laptop`."""
    return f"{user_name()}@{socket.gethostname()}"


def user_name() -> str:
    """Return the name of the user, as `ann`."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A user without a name, as in a container.
        return "unknown"
