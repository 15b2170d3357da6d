"""The token that masters and workers share, and its replacement while they run."""

import hmac
from collections.abc import Callable, Sequence
from pathlib import Path

from libs.core.config.transport_settings import TOKEN
from libs.core.transport.watched_files import FileRejected, WatchedFiles


class SharedTokens:
    """The tokens that a master accepts; a worker sends the first one. Without any, every worker is accepted.

    Args:
        read: returns them.
    """

    def __init__(self, read: Callable[[], Sequence[str]] = tuple) -> None:
        self._read = read

    @property
    def required(self) -> bool:
        """Whether a token is required."""
        return bool(self._read())

    @property
    def own(self) -> str | None:
        """The token to send; None without one."""
        return next(iter(self._read()), None)

    def accepts(self, presented: str) -> bool:
        """Whether *presented* is one of them. The time that this takes does not depend on how much of it is right."""
        given = presented.encode()
        matches = [hmac.compare_digest(given, token.encode()) for token in self._read()]
        return any(matches) or not matches


def parse_tokens(setting: str, text: str) -> tuple[str, ...]:
    """Return the tokens in *text*, one a line or with commas between them; lines that begin with ``#`` are comments.

    Raises:
        FileRejected: there is none, or an invalid one.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    tokens = tuple(token.strip() for line in lines for token in line.split(",") if token.strip())
    if not tokens:
        raise FileRejected(setting, "it has no token")
    if not all(TOKEN.fullmatch(token) for token in tokens):
        raise FileRejected(setting, "each token must have 16 to 512 characters, without spaces and commas")
    return tokens


def token_file(setting: str, path: Path) -> SharedTokens:
    """Return the tokens in a file, read again when it changes.

    Raises:
        FileRejected: it is missing, or has no valid token.
    """

    def parse(contents: Sequence[bytes]) -> tuple[str, ...]:
        return parse_tokens(setting, contents[0].decode(errors="replace"))

    watched = WatchedFiles([(setting, path)], parse)
    return SharedTokens(lambda: watched.value)
