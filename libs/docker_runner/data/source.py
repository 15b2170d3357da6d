"""The interface of the source of data sets; `HostData` implements it."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from libs.docker_runner.code.source import CodeSource, FetchedCode
from libs.docker_runner.errors import DataMissing
from libs.docker_runner.executable import CodeRef


class DataSource(Protocol):
    """Fetches data sets and keeps them for their holders, like :class:`CodeSource`."""

    async def fetch(self, names: Sequence[str], holder: str | None = None) -> Mapping[str, Path]:
        """Return the file or folder of each data set, pinned for *holder*."""

    async def release(self, holder: str) -> None:
        """Drop the pins of the removed *holder*. May be repeated."""

    async def drop_stale_pins(self, live: Collection[str], older_than_seconds: float = 600.0) -> int:
        """Drop the pins of all except *live* and recent ones; return how many."""


class NoData:
    """The source of a runner without data sets."""

    async def fetch(self, names: Sequence[str], holder: str | None = None) -> Mapping[str, Path]:
        """Raise DataMissing if any is requested."""
        for name in names:
            raise DataMissing(name)
        return {}

    async def release(self, holder: str) -> None:
        """Do nothing."""

    async def drop_stale_pins(self, live: Collection[str], older_than_seconds: float = 600.0) -> int:
        """Do nothing."""
        return 0


class CodeWithData:
    """The code of *code*, whose holders release their *data* together with it."""

    def __init__(self, code: CodeSource, data: DataSource) -> None:
        self._code = code
        self._data = data

    async def fetch(self, ref: CodeRef, holder: str | None = None, *, etag: str | None = None) -> FetchedCode:
        """Return the code; see :meth:`CodeSource.fetch`."""
        return await self._code.fetch(ref, holder, etag=etag)

    async def release(self, holder: str) -> None:
        """Drop all pins of the removed *holder*. May be repeated."""
        await self._data.release(holder)
        await self._code.release(holder)

    async def drop_stale_pins(self, live: Collection[str], older_than_seconds: float = 600.0) -> int:
        """Drop the pins of all except *live* and recent ones; return how many."""
        dropped = await self._data.drop_stale_pins(live, older_than_seconds)
        return dropped + await self._code.drop_stale_pins(live, older_than_seconds)
