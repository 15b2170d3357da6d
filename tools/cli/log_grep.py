"""Search untrusted lines for a user's pattern, in bounded time."""

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from tools.cli.failures import Failure

_MOST_CHARACTERS = 64 * 1024
_LINE_SECONDS = 0.5


class _TooLong(Exception):
    """The search took too long."""


class Grep:
    """Determines which lines match the regular expression *pattern*; of a very long line its first 64 Ki characters.

    Raises:
        click.BadParameter: it is not a valid one.
    """

    def __init__(self, pattern: str) -> None:
        try:
            self._pattern = re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise click.BadParameter(f"{pattern!r} is not a regular expression: {error}", param_hint="--grep") from None

    def matches(self, text: str) -> bool:
        """Whether the line matches.

        Raises:
            Failure: the search took more than half a second: some patterns take years on lines that a bot can print.
        """
        try:
            with _limited():
                return self._pattern.search(text, 0, _MOST_CHARACTERS) is not None
        except _TooLong:
            raise Failure(
                f"--grep {self._pattern.pattern!r} takes too long on a line of {len(text)} characters; "
                "use a pattern without nested repetitions, such as a word"
            ) from None


@contextmanager
def _limited() -> Iterator[None]:
    """Raise _TooLong in the block when it takes too long: the search itself checks for signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    searching = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        if searching:
            raise _TooLong

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, _LINE_SECONDS)
    try:
        yield
    finally:
        searching = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
