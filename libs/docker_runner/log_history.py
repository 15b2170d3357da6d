"""A bot's output of past days and of today so far, out of object storage."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from libs.core.object_store import BucketMissing, ObjectMissing, ObjectStore
from libs.docker_runner.log_keys import day_of_key, log_folder

_READ_BYTES = 1024 * 1024
_TAIL_READ_BYTES = 64 * 1024
TAIL_BYTES = 8 * 1024 * 1024
"""What the last lines may come to, however long they are."""


@dataclass(frozen=True)
class LogPart:
    """One object of a bot's log: all of a UTC *day*, or what a host added that no longer owned the bot."""

    day: str
    key: str
    size: int


class LogHistory:
    """Reads the logs in *bucket*. Methods raise StorageUnavailable and StorageRejected."""

    def __init__(self, store: ObjectStore, bucket: str) -> None:
        self._store = store
        self._bucket = bucket

    async def parts(self, entity_id: str, first_day: str = "", last_day: str = "99999999") -> list[LogPart]:
        """The bot's objects from *first_day* to *last_day*, both included, oldest first."""
        found = []
        try:
            async for info in self._store.list(self._bucket, log_folder(entity_id)):
                day = day_of_key(entity_id, info.key)
                if day is not None and first_day <= day <= last_day:
                    found.append(LogPart(day, info.key, info.size))
        except BucketMissing:
            return []
        # The owner's object is the shorter key of a day, and comes first.
        return sorted(found, key=lambda part: (part.day, len(part.key), part.key))

    async def read(self, parts: Sequence[LogPart]) -> AsyncGenerator[bytes, None]:
        """The output in *parts*, up to the sizes they have there. One that has been removed is left out."""
        for part in parts:
            offset = 0
            while offset < part.size:
                content = await self._get(part, offset, min(_READ_BYTES, part.size - offset))
                if not content:
                    break
                offset += len(content)
                yield content

    async def tail(self, parts: Sequence[LogPart], lines: int) -> bytes:
        """The last *lines* lines in *parts*; of very long ones as many as 8 MiB hold, the first of them cut."""
        pieces: list[bytes] = []
        newlines = size = 0
        for part in reversed(parts):
            end = part.size
            while end > 0 and newlines <= lines and size < TAIL_BYTES:
                begin = max(0, end - _TAIL_READ_BYTES)
                content = await self._get(part, begin, end - begin)
                pieces.insert(0, content)
                newlines += content.count(b"\n")
                size += len(content)
                end = begin
        return last_lines(b"".join(pieces), lines)

    async def added(self, parts: Sequence[LogPart], seen: dict[str, int]) -> AsyncGenerator[bytes, None]:
        """What *parts* hold behind what was *seen*, by key; which is then seen too."""
        for part in parts:
            offset = seen.get(part.key, 0)
            while offset < part.size:
                content = await self._get(part, offset, min(_READ_BYTES, part.size - offset))
                if not content:
                    break
                offset += len(content)
                seen[part.key] = offset
                yield content
            seen[part.key] = max(offset, part.size)

    async def _get(self, part: LogPart, offset: int, length: int) -> bytes:
        try:
            return await self._store.get(self._bucket, part.key, offset=offset, length=length)
        except ObjectMissing:
            return b""


def sizes_of(parts: Sequence[LogPart]) -> dict[str, int]:
    """How much of each object there is, by its key."""
    return {part.key: part.size for part in parts}


def last_lines(content: bytes, lines: int) -> bytes:
    """The last *lines* lines of *content*; an unfinished one at the end counts as a line."""
    if lines <= 0:
        return b""
    at = len(content) - 1 if content.endswith(b"\n") else len(content)
    for _ in range(lines):
        at = content.rfind(b"\n", 0, at)
        if at < 0:
            return content
    return content[at + 1 :]
