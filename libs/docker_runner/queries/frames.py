"""The frames between a worker and the relay in a container; sandbox/init/relay.c describes them. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from libs.docker_runner.errors import DockerRunnerError

STREAMS = 16
REQUEST_BYTES = 64 * 1024
"""The maximum size of a request."""

_HEADER_BYTES = 8


class FrameKind(IntEnum):
    """The kinds of frames."""

    REQUEST = ord("Q")
    CANCEL = ord("C")
    DATA = ord("D")
    END = ord("E")
    CRASHED = ord("X")


class RelayConfused(DockerRunnerError):
    """The relay sent something that is not of its protocol."""


@dataclass(frozen=True)
class Frame:
    """One frame. *text*: bytes of a request or an answer, or how the query process ended."""

    kind: FrameKind
    stream: int
    text: bytes = b""

    def __bytes__(self) -> bytes:
        return bytes((self.kind, self.stream, 0, 0)) + len(self.text).to_bytes(4, "little") + self.text


class FrameReader:
    """Cuts what a relay sends into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that *data* completes.

        Raises:
            RelayConfused: *data* is not of the protocol; read nothing more.
        """
        self._buffer += data
        while len(self._buffer) >= _HEADER_BYTES:
            size = int.from_bytes(self._buffer[4:_HEADER_BYTES], "little")
            kind, stream = self._buffer[0], self._buffer[1]
            if kind not in set(FrameKind) or stream >= STREAMS or size > REQUEST_BYTES:
                raise RelayConfused(f"the relay of queries sent a frame of kind {kind} with {size} bytes")
            if len(self._buffer) < _HEADER_BYTES + size:
                return
            text = bytes(self._buffer[_HEADER_BYTES : _HEADER_BYTES + size])
            del self._buffer[: _HEADER_BYTES + size]
            yield Frame(FrameKind(kind), stream, text)
