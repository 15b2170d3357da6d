"""A bot's stored output in object storage, of past days and of today."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from libs.core.storage.errors import BucketMissing, ObjectMissing
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.logs.index import blocks
from libs.docker_runner.logs.keys import day_of_key, log_folder
from libs.docker_runner.logs.spans import Block, Span, divided

_READ_BYTES = 1024 * 1024
_TAIL_READ_BYTES = 64 * 1024
_PIECE_BYTES = 256 * 1024
TAIL_BYTES = 8 * 1024 * 1024
"""Maximum size of the last lines, regardless of their length."""


@dataclass(frozen=True)
class LogPart:
    """One object of a bot's log: a whole UTC *day*, or what a host added that no longer owned the bot."""

    day: str
    key: str
    size: int


class LogHistory:
    """Reads the logs in *bucket*. Methods raise StorageUnavailable and StorageRejected."""

    def __init__(self, store: ObjectStore, bucket: str) -> None:
        self._store = store
        self._bucket = bucket

    async def parts(self, entity_id: str, first_day: str = "", last_day: str = "99999999") -> list[LogPart]:
        """Return the bot's objects from *first_day* to *last_day*, inclusive, oldest first."""
        found = []
        try:
            async for info in self._store.list(self._bucket, log_folder(entity_id)):
                day = day_of_key(entity_id, info.key)
                if day is not None and first_day <= day <= last_day:
                    found.append(LogPart(day, info.key, info.size))
        except BucketMissing:
            return []
        # The owner's object has the shortest key of a day, and comes first.
        return sorted(found, key=lambda part: (part.day, len(part.key), part.key))

    async def read(self, parts: Sequence[LogPart]) -> AsyncGenerator[bytes, None]:
        """Yield the output in *parts*, up to their listed sizes. Removed ones are skipped."""
        for part in parts:
            offset = 0
            while offset < part.size:
                content = await self._get(part, offset, min(_READ_BYTES, part.size - offset))
                if not content:
                    break
                offset += len(content)
                yield content

    async def tail(self, parts: Sequence[LogPart], lines: int) -> bytes:
        """Return the last *lines* lines in *parts*; at most 8 MiB, with the first line cut if necessary."""
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
        """Yield what *parts* contain beyond *seen*, by key, and update *seen*."""
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

    async def pieces(
        self,
        part: LogPart,
        *,
        begin: int = 0,
        from_us: int = 0,
        unknown_from: int | None = None,
        skip: Callable[[Sequence[Span]], bool] | None = None,
    ) -> AsyncGenerator[tuple[bytes, Sequence[Span]], None]:
        """Yield the output in *part* with its spans, in pieces of at most 256 KiB.

        Args:
            begin: first byte.
            from_us: skip output that is known to be older, and unindexed output.
            unknown_from: nevertheless yield unindexed output at the end from this byte on.
            skip: skip the output of these spans, which belong to one addition.
        """
        at = begin
        async for block in blocks(self._store, self._bucket, part.key, from_byte=begin, from_us=from_us):
            if block.at > at and not from_us:
                async for piece in self._unknown(part, at, min(block.at, part.size)):
                    yield piece
            at = max(at, block.at)
            if block.newest_us >= from_us and not (skip is not None and skip(block.spans)):
                async for piece in self._spans(part, block, at):
                    yield piece
            at = max(at, min(block.end, part.size))
        if not from_us or unknown_from is not None:
            async for piece in self._unknown(part, max(at, unknown_from or 0), part.size):
                yield piece

    async def tail_begins(self, parts: Sequence[LogPart], lines: int) -> list[tuple[LogPart, int]]:
        """Return those of *parts* that have the last *lines* lines, each with the byte at which its last ones begin.

        Parts of one day are alternatives: each is read for as many lines.
        """
        found: list[tuple[LogPart, int]] = []
        left = lines
        for _, of_day in groupby(reversed(parts), key=lambda part: part.day):
            if left <= 0:
                break
            counted = [(part, *await self._tail_begin(part, left)) for part in of_day]
            found += [(part, begin) for part, begin, _ in counted]
            left -= sum(number for _, _, number in counted)
        return found[::-1]

    async def _tail_begin(self, part: LogPart, lines: int) -> tuple[int, int]:
        """Return where the last *lines* lines of *part* begin, and how many lines follow."""
        tail, begin = b"", part.size
        while begin > 0 and tail.count(b"\n") <= lines and part.size - begin < TAIL_BYTES:
            size = min(begin, max(_TAIL_READ_BYTES, len(tail)))
            tail = await self._get(part, begin - size, size) + tail
            begin -= size
        wanted = last_lines(tail, lines)
        return part.size - len(wanted), wanted.count(b"\n") + bool(wanted and not wanted.endswith(b"\n"))

    async def _unknown(self, part: LogPart, begin: int, end: int) -> AsyncGenerator[tuple[bytes, Sequence[Span]], None]:
        for at in range(begin, end, _PIECE_BYTES):
            content = await self._get(part, at, min(_PIECE_BYTES, end - at))
            yield content, [Span("", 0, len(content), 0, 0)]

    async def _spans(
        self, part: LogPart, block: Block, begin: int
    ) -> AsyncGenerator[tuple[bytes, Sequence[Span]], None]:
        for at, spans in divided(block, begin, part.size, _PIECE_BYTES):
            wanted = sum(span.length for span in spans)
            content = await self._get(part, at, wanted)
            if len(content) < wanted:
                return
            yield content, spans

    async def _get(self, part: LogPart, offset: int, length: int) -> bytes:
        try:
            return await self._store.get(self._bucket, part.key, offset=offset, length=length)
        except ObjectMissing:
            return b""


def sizes_of(parts: Sequence[LogPart]) -> dict[str, int]:
    """Return the size of each object, by its key."""
    return {part.key: part.size for part in parts}


def last_lines(content: bytes, lines: int) -> bytes:
    """Return the last *lines* lines of *content*; an unfinished one at the end counts as a line."""
    if lines <= 0:
        return b""
    at = len(content) - 1 if content.endswith(b"\n") else len(content)
    for _ in range(lines):
        at = content.rfind(b"\n", 0, at)
        if at < 0:
            return content
    return content[at + 1 :]
