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
    """An open spool, with its uploader and its readers. The folder's lock belongs to this process until close()."""

    def __init__(self, folder: LogFolder, owner: LogOwner, spool: LogSpool, uploader: LogUploader) -> None:
        self.folder = folder
        self.owner = owner
        self.spool = spool
        self.uploader = uploader
        self.followers = 0
        """The number of containers that are followed into it."""
        self.uploading = False
        self.attempts = 0
        """The number of uploads that have ended, successful or not."""
        self.changed_at = time.monotonic() - folder.quiet_seconds()
        self.due_at: float | None = 0.0 if spool.pending_bytes else None
        """When its output is due for upload, by the monotonic clock; None without output."""
        self.rests_until = 0.0
        """Before that, only the output of ended containers is uploaded."""
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
        """Note that output has reached the spool."""
        self.changed_at = time.monotonic()
        if self.due_at is None:
            self.due_at = max(self.changed_at + upload_within_seconds, self.rests_until)
        for reader in self._readers:
            reader.put(Piece(place, payload, spans))

    def read_along(self) -> "LiveOutput":
        """Return a reader of future output; end it with :meth:`stop_reading`."""
        reader = LiveOutput()
        self._readers.add(reader)
        return reader

    def stop_reading(self, reader: "LiveOutput") -> None:
        """Remove the reader."""
        self._readers.discard(reader)

    @property
    def in_use(self) -> bool:
        """Whether a follower, an upload or a reader uses it, or soon will."""
        return bool(self.followers or self.uploading or self._readers or self.due_at is not None)

    def close(self) -> None:
        """Release the folder for other processes."""
        self.folder.unlock()


@dataclass(frozen=True)
class Piece:
    """Output that has reached the spool, up to *place*."""

    place: Place
    payload: bytes
    spans: Sequence[Span]


class LiveOutput:
    """Output on its way to one reader; a slow reader loses the oldest part."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._bytes = 0
        self._skipped = 0
        self._more = asyncio.Event()

    def put(self, piece: Piece) -> None:
        """Add a piece; never waits."""
        self._pieces.append(piece)
        self._bytes += len(piece.payload)
        while self._bytes > _LIVE_BYTES and len(self._pieces) > 1:
            dropped = len(self._pieces.pop(0).payload)
            self._bytes -= dropped
            self._skipped += dropped
        self._more.set()

    async def take(self) -> tuple[list[Piece], int]:
        """Return the received pieces, at least one, and how many bytes before them were skipped for a slow reader."""
        await self._more.wait()
        self._more.clear()
        pieces, self._pieces, self._bytes = self._pieces, [], 0
        skipped, self._skipped = self._skipped, 0
        return pieces, skipped
