"""What the command's exit code means; the README lists them."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    """What was asked for did not work; the message says why."""
    USAGE = 2
    """An argument, a setting or a folder is wrong; a person must mend it."""
    UNREACHABLE = 3
    """Something outside is missing or does not answer: MongoDB, NATS, the storage, the Docker engine, an index."""
    NOT_FOUND = 4
    """There is no such bot, backtest, schedule, worker, dead letter or stack."""
    TIMEOUT = 5
    """It was begun, and did not come about within the time given; it may still."""
    INTERRUPTED = 130
    """Ctrl-C."""
