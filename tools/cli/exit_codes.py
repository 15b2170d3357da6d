"""The exit codes of the command; the README lists them."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The result of a command."""

    OK = 0
    FAILED = 1
    """The command failed; the message gives the reason."""
    USAGE = 2
    """An argument, a setting or a folder is invalid; the user must correct it."""
    UNREACHABLE = 3
    """A dependency is missing or unreachable: MongoDB, NATS, the storage, the Docker engine, a package index."""
    NOT_FOUND = 4
    """The bot, backtest, schedule, worker, dead letter or stack does not exist."""
    TIMEOUT = 5
    """Timed out; it may still complete."""
    INTERRUPTED = 130
    """Ctrl-C."""
