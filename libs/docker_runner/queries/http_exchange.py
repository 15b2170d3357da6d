"""One question over HTTP to a hostile query process: the request, and a bounded reader of the answer. Pure."""

import json
from enum import StrEnum
from urllib.parse import quote, urlencode

HEAD_BYTES = 16 * 1024
"""The maximum size of an answer's head."""

# A chunk's size, or a trailer.
_LINE_BYTES = 1024
_MOST_CHUNKS = 100_000
# Answers before the real one, such as 100 (Continue).
_MOST_INTERIM = 8


class AnswerFault(StrEnum):
    """Why an answer cannot be read."""

    TOO_LARGE = "too-large"
    NOT_HTTP = "not-http"
    INCOMPLETE = "incomplete"


def request(path: str, parameters: str) -> bytes:
    """Return the request for *path* with *parameters*, a JSON object: strings as they are, other values as JSON."""
    values = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in json.loads(parameters).items()
    }
    query = urlencode(values, quote_via=quote, errors="replace")
    target = quote(path, safe="/:@!$&'()*+,;=-._~", errors="replace") + (f"?{query}" if query else "")
    head = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    return head.encode("ascii")


class AnswerReader:
    """Reads one answer of HTTP/1.0 or 1.1.

    Args:
        limit_bytes: maximum size of the body.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._buffer = bytearray()
        self._body = bytearray()
        self._length: int | None = None
        self._is_chunked = False
        self._has_head = False
        self._interim = 0
        self._chunk_left = 0
        self._chunks = 0
        self._in_trailers = False
        self.body: bytes | None = None
        """The complete body; None before its end."""
        self.fault: AnswerFault | None = None
        """Why it cannot be read; nothing is read any more."""

    @property
    def is_done(self) -> bool:
        """Whether nothing more is to be read."""
        return self.body is not None or self.fault is not None

    def feed(self, data: bytes) -> None:
        """Take *data*."""
        if self.is_done:
            return
        self._buffer += data
        while not self._has_head:
            if not self._take_head():
                return
        if self._is_chunked:
            self._take_chunks()
        else:
            self._body += self._buffer
            self._buffer.clear()
            if self._length is not None and len(self._body) >= self._length:
                self.body = bytes(self._body[: self._length])
            elif len(self._body) > self._limit:
                self.fault = AnswerFault.TOO_LARGE

    def end(self) -> None:
        """Note that the connection has ended."""
        if self.is_done:
            return
        if self._has_head and not self._is_chunked and self._length is None:
            self.body = bytes(self._body)
        else:
            self.fault = AnswerFault.INCOMPLETE

    def _take_head(self) -> bool:
        """Take the head of an answer, or an interim one; false when more is needed, or it cannot be read."""
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if len(self._buffer) > HEAD_BYTES or not b"HTTP/1.".startswith(self._buffer[:7]):
                self.fault = AnswerFault.NOT_HTTP
            return False
        status_line, *lines = bytes(head).decode("latin-1").split("\r\n")
        words = status_line.split(" ", 2)
        if len(head) > HEAD_BYTES or not words[0].startswith("HTTP/1.") or len(words) < 2 or not words[1].isdigit():
            self.fault = AnswerFault.NOT_HTTP
            return False
        self._buffer = bytearray(rest)
        if words[1].startswith("1"):
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                self.fault = AnswerFault.NOT_HTTP
            return self.fault is None
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._has_head = True
        self._is_chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
        length = headers.get("content-length", "")
        if not self._is_chunked and length:
            if not (length.isascii() and length.isdigit() and len(length) < 20):
                self.fault = AnswerFault.NOT_HTTP
                return False
            self._length = int(length)
            if self._length > self._limit:
                self.fault = AnswerFault.TOO_LARGE
                return False
        return True

    def _take_chunks(self) -> None:
        while self.fault is None and self.body is None:
            if self._chunk_left:
                piece = self._buffer[: self._chunk_left]
                del self._buffer[: len(piece)]
                # With the line's end behind each chunk, which is cut off below.
                self._body += piece
                self._chunk_left -= len(piece)
                if self._chunk_left:
                    return
                del self._body[-2:]
            end = self._buffer.find(b"\n", 0, _LINE_BYTES)
            if end < 0:
                if len(self._buffer) >= _LINE_BYTES:
                    self.fault = AnswerFault.NOT_HTTP
                return
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._take_line(line.strip())

    def _take_line(self, line: bytes) -> None:
        self._chunks += 1
        if self._in_trailers:
            if not line:
                self.body = bytes(self._body)
            elif self._chunks > _MOST_CHUNKS:
                self.fault = AnswerFault.NOT_HTTP
            return
        digits = line.partition(b";")[0].strip()
        if not digits or len(digits) > 8 or digits.strip(b"0123456789abcdefABCDEF") or self._chunks > _MOST_CHUNKS:
            self.fault = AnswerFault.NOT_HTTP
            return
        size = int(digits, 16)
        if len(self._body) + size > self._limit:
            self.fault = AnswerFault.TOO_LARGE
        elif size:
            self._chunk_left = size + 2
        else:
            self._in_trailers = True
