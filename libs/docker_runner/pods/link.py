"""The connection to the init of a pod: encrypted and mutually authenticated frames, and their contents.

`sandbox/init/link.c` describes the encryption and `pod.c` the frames. Both sides prove the key of the attempt, which
the pod's specification has. A frame is accepted once, in its order, and only on its connection.
"""

import asyncio
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from libs.docker_runner.errors import DockerRunnerError

FRAME_BYTES = 65536
"""The largest text of a frame."""
PART_BYTES = 32768
_RANDOM_BYTES = 16
_TAG_BYTES = 16
_PREFIX_BYTES = 4 + _TAG_BYTES
_TO_INIT, _TO_WORKER = b"\x01", b"\x02"


class LinkBroken(DockerRunnerError):
    """The connection ended, or its other side does not have the key."""


class LinkRefused(DockerRunnerError):
    """The init has served a later owner of the segment."""


class Phase(StrEnum):
    """What the init of a pod does: it waits for a bot, runs it, or has seen its end."""

    WAITING = "w"
    RUNNING = "r"
    ENDED = "e"


@dataclass(frozen=True)
class Welcome:
    """The answer to a worker. *offset* is where the kept output begins."""

    phase: Phase
    offset: int


@dataclass(frozen=True)
class Question:
    """The init asks how long the bot may live."""

    nonce: int


@dataclass(frozen=True)
class Output:
    """A part of the stream of output records, which :func:`records_in` reads."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Part:
    """A part of the outcome or of the archive of the state."""

    offset: int
    size: int
    data: bytes


class OutcomePart(Part):
    """A part of the outcome."""


class StatePart(Part):
    """A part of the archive of the state."""


@dataclass(frozen=True)
class StateProblem:
    """Why the latest state is not in the archive; "" when it is."""

    word: str


@dataclass(frozen=True)
class StartRefused:
    """The bot cannot be started."""

    reason: str


@dataclass(frozen=True)
class End:
    """The bot has ended, and everything else has been sent. *lost*: its lease ran out."""

    exit_code: int
    lost: bool


@dataclass(frozen=True)
class Superseded:
    """The init has served a later owner."""


Report = Welcome | Question | Output | OutcomePart | StatePart | StateProblem | StartRefused | End | Superseded


@dataclass(frozen=True)
class Record:
    """One piece of output. *stamp_ns* is its time since 1970, by the node's clock; it never decreases."""

    stamp_ns: int
    stream: str
    data: bytes


class PodLink:
    """One connection to the init of a pod. Made by :meth:`open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._key = key
        self._own = os.urandom(_RANDOM_BYTES)
        self._other = b""
        self._sent = self._received = 0

    @classmethod
    async def open(
        cls, host: str, port: int, key: bytes, *, epoch: int, offset: int = 0, timeout_seconds: float = 5.0
    ) -> "tuple[PodLink, Welcome]":
        """Connect to the init of a pod, which drops the connection of every other worker.

        Args:
            key: of the attempt, 32 bytes.
            epoch: the owner's; an init that has served a higher one refuses.
            offset: from where on it sends the output.

        Raises:
            LinkBroken: nothing listens there, or it does not have the key.
            LinkRefused: a later owner was there.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                reader, writer = await asyncio.open_connection(host, port, limit=4 * FRAME_BYTES)
                link = cls(reader, writer, key)
                try:
                    writer.write(link._own)
                    link._other = await reader.readexactly(_RANDOM_BYTES)
                    await link.send(b"H" + struct.pack(">QQ", epoch, offset))
                    answer = await link.receive()
                except BaseException:
                    await link.close()
                    raise
        except TimeoutError as error:
            raise LinkBroken(f"{host}:{port} does not answer within {timeout_seconds:g} s") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise LinkBroken(f"{host}:{port} cannot be reached: {error}") from error
        if isinstance(answer, Superseded):
            await link.close()
            raise LinkRefused(f"{host}:{port} serves a later owner than epoch {epoch}")
        if not isinstance(answer, Welcome):
            await link.close()
            raise LinkBroken(f"{host}:{port} answers with {type(answer).__name__}")
        return link, answer

    async def close(self) -> None:
        """Close the connection at once. May be repeated."""
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def send(self, text: bytes) -> None:
        """Send one frame of at most FRAME_BYTES.

        Raises:
            LinkBroken: the connection has ended.
        """
        from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as encrypt  # only workers with pods

        size = struct.pack(">I", len(text))
        nonce = self._own + struct.pack(">Q", self._sent)
        self._sent += 1
        sealed = encrypt(text, size + _TO_INIT + self._other, nonce, self._key)
        try:
            self._writer.write(size + sealed[-_TAG_BYTES:] + sealed[:-_TAG_BYTES])
            await self._writer.drain()
        except OSError as error:
            raise LinkBroken(f"the connection has ended: {error}") from error

    async def receive(self) -> Report:
        """Return the next report.

        Raises:
            LinkBroken: the connection has ended, or a frame is not authentic.
        """
        from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as decrypt
        from nacl.exceptions import CryptoError

        try:
            prefix = await self._reader.readexactly(_PREFIX_BYTES)
            (size,) = struct.unpack(">I", prefix[:4])
            if not 0 < size <= FRAME_BYTES:
                raise LinkBroken(f"a frame of {size} bytes")
            sealed = await self._reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise LinkBroken(f"the connection has ended: {error}") from error
        nonce = self._other + struct.pack(">Q", self._received)
        self._received += 1
        try:
            text = decrypt(sealed + prefix[4:], prefix[:4] + _TO_WORKER + self._own, nonce, self._key)
        except CryptoError as error:
            raise LinkBroken("a frame is not authentic") from error
        return report_in(text)

    # --- what a worker says

    async def grant(self, question: Question, seconds: float, *, final: bool = False) -> None:
        """Answer *question*: the bot may live for *seconds* from when the init asked. *final*: nothing extends it."""
        milliseconds = max(0, min(int(seconds * 1000), 0xFFFFFFFF))
        await self.send(b"G" + struct.pack(">QIB", question.nonce, milliseconds, final))

    async def put_file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file before the start; its folders are created."""
        await self.send(b"F" + struct.pack(">I", mode) + path.encode("utf-8", "surrogateescape"))
        for at in range(0, len(content), PART_BYTES):
            await self.send(b"D" + content[at : at + PART_BYTES])

    async def put_folder(self, path: str) -> None:
        """Create a folder before the start."""
        await self.send(b"K" + path.encode("utf-8", "surrogateescape"))

    async def put_link(self, path: str, target: str) -> None:
        """Create a symbolic link before the start."""
        await self.send(b"L" + f"{target}\0{path}".encode("utf-8", "surrogateescape"))

    async def start(self, command: Sequence[str]) -> None:
        """Start the bot. The answer is a :class:`Welcome` with the phase RUNNING, or a :class:`StartRefused`."""
        await self.send(b"S" + "".join(f"{word}\0" for word in command).encode())

    async def stop(self, grace_seconds: float) -> None:
        """End the bot: SIGTERM, and SIGKILL after *grace_seconds*; at once for 0."""
        await self.send(b"T" + struct.pack(">I", int(grace_seconds * 1000)))

    async def expire(self) -> None:
        """End the bot at once, since the lease is lost."""
        await self.send(b"X")

    async def stored(self, offset: int) -> None:
        """Release the output before *offset*, the end of a record."""
        await self.send(b"A" + struct.pack(">Q", offset))

    async def leave(self) -> None:
        """Let the init of a bot that has ended exit: everything has arrived."""
        await self.send(b"B")


def report_in(text: bytes) -> Report:
    """Return the report in the *text* of a frame.

    Raises:
        LinkBroken: it is malformed.
    """
    kind, rest = text[:1], text[1:]
    try:
        match kind:
            case b"W":
                return Welcome(Phase(rest[:1].decode()), *struct.unpack(">Q", rest[1:]))
            case b"N":
                return Superseded()
            case b"Q":
                return Question(*struct.unpack(">Q", rest))
            case b"O":
                (offset,) = struct.unpack(">Q", rest[:8])
                return Output(offset, rest[8:])
            case b"C":
                at, size = struct.unpack(">II", rest[:8])
                return OutcomePart(at, size, rest[8:])
            case b"V":
                at, size = struct.unpack(">II", rest[:8])
                return StatePart(at, size, rest[8:])
            case b"P":
                return StateProblem(rest.decode("ascii", "replace"))
            case b"E":
                return StartRefused(rest.decode("utf-8", "replace"))
            case b"Z":
                exit_code, lost = struct.unpack(">IB", rest)
                return End(exit_code, bool(lost))
    except (struct.error, ValueError) as error:
        raise LinkBroken(f"a malformed report: {error}") from error
    raise LinkBroken(f"an unknown report {kind!r}")


_HEADER = struct.Struct(">QI")
HEADER_BYTES = _HEADER.size
_ERRORS_BIT = 0x80000000


def records_in(data: bytes) -> tuple[list[Record], int]:
    """Return the complete records at the beginning of *data*, and their size in bytes."""
    records, at = [], 0
    while len(data) - at >= _HEADER.size:
        stamp_ns, kind = _HEADER.unpack_from(data, at)
        end = at + _HEADER.size + (kind & ~_ERRORS_BIT)
        if end > len(data):
            break
        stream = "stderr" if kind & _ERRORS_BIT else "stdout"
        records.append(Record(stamp_ns, stream, bytes(data[at + _HEADER.size : end])))
        at = end
    return records, at
