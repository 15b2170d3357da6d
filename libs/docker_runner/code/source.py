"""The interface of the source of code; `CodeCache` implements it."""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from libs.docker_runner.executable import CodeRef


class FetchedCode(Protocol):
    """A bot's code as a folder, which is neither changed nor removed while it is pinned."""

    @property
    def path(self) -> Path:
        """The folder."""

    @property
    def etag(self) -> str:
        """The version of the object that it came from."""


class CodeSource(Protocol):
    """Fetches code and keeps it for its holders; a holder is one start of one container."""

    async def fetch(self, ref: CodeRef, holder: str | None = None, *, etag: str | None = None) -> FetchedCode:
        """Return the code of *ref*, pinned for *holder*; with *etag* exactly that version."""

    async def release(self, holder: str) -> None:
        """Drop the pins of the removed *holder*. May be repeated."""

    async def drop_stale_pins(self, live: Collection[str], older_than_seconds: float = 600.0) -> int:
        """Drop the pins of all except *live* and recent ones; return how many."""
