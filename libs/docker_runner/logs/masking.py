"""Mask the values of a bot's secrets in its output and its result.

Each masked byte becomes `*`, so that positions in the output are the same with and without masking. A value is found as
it is, line by line if it has several lines, and as JSON string, percent-encoded, in hexadecimal digits and in base64 at
any offset. A bot that wants to print a value can encode it otherwise: masking prevents accidents, not intent.
"""

import base64
import json
import re
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from libs.docker_runner.logs.output import LogLine

LEAST_CHARACTERS = 6
"""Shorter values are not masked: they occur by chance, and masking them would make output unreadable."""

_PATTERN_BYTES = 4096
_FILE_BYTES = 1024 * 1024
_HELD_BYTES = 256 * 1024
_HELD_PIECES = 1000
_DIGITS = bytes.maketrans(b"023456789", b"111111111")
_NUMERIC = re.compile(rb"[0-9.eE+-]+")


class Masker:
    """Masks the values of one bot's secrets."""

    def __init__(self, values: Iterable[str], *, everything: bool = False) -> None:
        self._everything = everything
        found = {pattern for value in values for pattern in _patterns(value)}
        # The longest first, so that a value that contains another one is masked as a whole.
        self._patterns = sorted(found, key=lambda pattern: (-len(pattern), pattern))
        self.longest = max(map(len, self._patterns), default=0)
        """The length of the longest pattern, in bytes."""

    def masked(self, data: bytes) -> bytes:
        """Return *data* with each value masked."""
        if self._everything:
            return re.sub(rb"[^\n]", b"*", data)
        for pattern in self._patterns:
            if pattern in data:
                data = data.replace(pattern, b"*" * len(pattern))
        return data

    def masked_json(self, data: bytes) -> bytes:
        """Return the JSON *data* with each value masked; digits of a number become 1, so that it stays JSON."""
        if self._everything:
            return re.sub(rb"[^\n]", b" ", data)
        for pattern in self._patterns:
            # A quote ends a string: such a pattern is no part of one.
            if pattern in data and b'"' not in pattern.replace(rb"\"", b""):
                cover = pattern.translate(_DIGITS) if _NUMERIC.fullmatch(pattern) else b"*" * len(pattern)
                data = data.replace(pattern, cover)
        return data

    def masked_text(self, text: str) -> str:
        """Return *text* with each value masked."""
        return self.masked(text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")

    def mask_file(self, path: Path, begin: int) -> None:
        """Mask the JSON in *path* from byte *begin* on, in place. Blocks.

        Raises:
            OSError: it cannot be read or written.
        """
        with path.open("r+b") as file:
            at = begin
            while True:
                file.seek(at)
                data = file.read(_FILE_BYTES + self.longest)
                masked = self.masked_json(data)
                if masked != data:
                    file.seek(at)
                    file.write(masked)
                if len(data) < _FILE_BYTES + self.longest:
                    return
                at += _FILE_BYTES

    def is_open(self, end: bytes) -> bool:
        """Whether the output that ends with *end* may continue with the rest of a value."""
        return any(_ends_within(end, pattern) for pattern in self._patterns)


async def masked_pieces(pieces: AsyncGenerator[LogLine, None], masker: Masker | None) -> AsyncGenerator[LogLine, None]:
    """Yield *pieces* with values masked, also one that is split between pieces.

    A piece that ends within a value is held back until it is known whether the value continues. None masks nothing.
    """
    async with aclosing(pieces):
        if masker is None:
            async for piece in pieces:
                yield piece
            return
        held = _Held(masker)
        async for piece in pieces:
            held.add(piece)
            if held.is_complete:
                for done in held.take():
                    yield done
        for done in held.take():
            yield done


class _Held:
    """Pieces in their order, until no value is open at the end of either stream."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._pieces: list[LogLine] = []
        self._bytes = 0
        self._ends: dict[str, bytes] = {}

    def add(self, piece: LogLine) -> None:
        self._pieces.append(piece)
        self._bytes += len(piece.data)
        if piece.data.endswith(b"\n"):
            self._ends.pop(piece.stream, None)
            return
        end = (self._ends.get(piece.stream, b"") + piece.data)[-self._masker.longest :]
        if self._masker.is_open(end):
            self._ends[piece.stream] = end
        else:
            self._ends.pop(piece.stream, None)

    @property
    def is_complete(self) -> bool:
        return not self._ends or self._bytes > _HELD_BYTES or len(self._pieces) > _HELD_PIECES

    def take(self) -> Iterator[LogLine]:
        pieces, self._pieces, self._bytes = self._pieces, [], 0
        self._ends.clear()
        if len(pieces) == 1:
            yield replace(pieces[0], data=self._masker.masked(pieces[0].data))
            return
        streams: dict[str, bytes] = {}
        for stream in {piece.stream for piece in pieces}:
            streams[stream] = self._masker.masked(b"".join(piece.data for piece in pieces if piece.stream == stream))
        taken = dict.fromkeys(streams, 0)
        for piece in pieces:
            begin = taken[piece.stream]
            taken[piece.stream] = end = begin + len(piece.data)
            yield replace(piece, data=streams[piece.stream][begin:end])


def _patterns(value: str) -> Iterator[bytes]:
    """Yield the byte strings as which *value* may appear; no pattern contains the end of a line."""
    if len(value.strip()) < LEAST_CHARACTERS:
        return
    raw = value.encode("utf-8", "surrogatepass")
    forms = [
        *(line.strip() for line in re.split(rb"[\r\n]+", raw)),
        json.dumps(value)[1:-1].encode(),
        json.dumps(value, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass"),
        quote(raw, safe="").encode(),
        quote(raw).encode(),
        raw.hex().encode(),
        raw.hex().upper().encode(),
        *_base64_forms(raw),
    ]
    for form in forms:
        # Each part of a long one by itself.
        for begin in range(0, len(form), _PATTERN_BYTES):
            part = form[begin : begin + _PATTERN_BYTES]
            if len(part.decode("utf-8", "replace")) >= LEAST_CHARACTERS and b"\n" not in part:
                yield part


def _base64_forms(raw: bytes) -> Iterator[bytes]:
    """Yield the characters that *raw* alone determines in base64, at each offset within the encoded data."""
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).rstrip(b"=")
        begin = (offset * 8 + 5) // 6
        inner = encoded[begin : (offset + len(raw)) * 8 // 6]
        yield inner
        yield inner.translate(bytes.maketrans(b"+/", b"-_"))


def _ends_within(end: bytes, pattern: bytes) -> bool:
    """Whether a proper beginning of *pattern* is at the end of *end*."""
    at = max(0, len(end) - len(pattern) + 1)
    while (at := end.find(pattern[:1], at)) >= 0:
        if pattern.startswith(end[at:]):
            return True
        at += 1
    return False
