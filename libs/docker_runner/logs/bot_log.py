"""One bot's log on this host: its spool, its uploader, and its live readers."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from libs.docker_runner.logs.folders import LogFolder, LogOwner
from libs.docker_runner.logs.objects import LogObjects
from libs.docker_runner.logs.spans import Span
from libs.docker_runner.logs.spool import LogSpool, Place
from libs.docker_runner.logs.uploader import LogUploader

_LIVE_BYTES = 4 * 1024 * 1024


class BotLog:
    """A spool that is open, with its uploader and its readers. The folder's lock is this process's until close()."""

    def __init__(self, folder: LogFolder, owner: LogOwner, spool: LogSpool, uploader: LogUploader) -> None:
        self.folder = folder
        self.owner = owner
        self.spool = spool
        self.uploader = uploader
        self.followers = 0
        """How many containers are being followed into it."""
        self.uploading = False
        self.attempts = 0
        """How many uploads have ended, well or not."""
        self.changed_at = time.monotonic() - folder.quiet_seconds()
        self.due_at: float | None = 0.0 if spool.pending_bytes else None
        """When its output is to be uploaded, by the monotonic clock; None when there is none."""
        self.rests_until = 0.0
        """Before that, nothing is uploaded but the output of a container that has ended."""
        self._readers: set[LiveOutput] = set()

    @classmethod
    def open(
        cls, folder: LogFolder, owner: LogOwner, objects: LogObjects, executor: Executor, spool_bytes: int
    ) -> "BotLog":
        """Open the spool in *folder*, which is locked. Blocks."""
        folder.write_owner(owner)
        spool = LogSpool(folder.path, spool_bytes)
        return cls(folder, owner, spool, LogUploader(spool, objects, executor))

    def written(self, place: Place, payload: bytes, spans: Sequence[Span], upload_within_seconds: float) -> None:
        """Output has reached the spool."""
        self.changed_at = time.monotonic()
        if self.due_at is None:
            self.due_at = max(self.changed_at + upload_within_seconds, self.rests_until)
        for reader in self._readers:
            reader.put(Piece(place, payload, spans))

    def read_along(self) -> "LiveOutput":
        """A reader of what is written from now on; end it with :meth:`stop_reading`."""
        reader = LiveOutput()
        self._readers.add(reader)
        return reader

    def stop_reading(self, reader: "LiveOutput") -> None:
        """The reader has gone."""
        self._readers.discard(reader)

    @property
    def in_use(self) -> bool:
        """Whether somebody writes, uploads or reads, or soon will."""
        return bool(self.followers or self.uploading or self._readers or self.due_at is not None)

    def close(self) -> None:
        """Let another process have the folder."""
        self.folder.unlock()


@dataclass(frozen=True)
class Piece:
    """Output that has reached the spool, up to *place*."""

    place: Place
    payload: bytes
    spans: Sequence[Span]


class LiveOutput:
    """Output on its way to one reader; a slow one loses the oldest of it."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._bytes = 0
        self._skipped = 0
        self._more = asyncio.Event()

    def put(self, piece: Piece) -> None:
        """Hand a piece on; never waits."""
        self._pieces.append(piece)
        self._bytes += len(piece.payload)
        while self._bytes > _LIVE_BYTES and len(self._pieces) > 1:
            dropped = len(self._pieces.pop(0).payload)
            self._bytes -= dropped
            self._skipped += dropped
        self._more.set()

    async def take(self) -> tuple[list[Piece], int]:
        """What has come, at least one piece, and how many bytes before it were skipped for a slow reader."""
        await self._more.wait()
        self._more.clear()
        pieces, self._pieces, self._bytes = self._pieces, [], 0
        skipped, self._skipped = self._skipped, 0
        return pieces, skipped
