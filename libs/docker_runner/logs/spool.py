"""One bot's output on this host's disk, between the engine's log and the day's object.

The follower appends to it, the uploader removes chunks from its front, and both may be killed at any moment: the disk
contains their progress. When the storage is down for so long that the spool is full, the oldest output is dropped
and a note in its place gives the number of missing bytes; the bot is never blocked.

Every call blocks for a disk access, and may come from any thread. One process at a time may have a spool open.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from libs.docker_runner.logs.position import Position
from libs.docker_runner.logs.records import (
    Record,
    Source,
    SpoolFile,
    pack_position,
    read_records,
    source_of,
    unpack_position,
)
from libs.docker_runner.logs.spans import RUNTIME, Span, pack

_FILES_PER_SPOOL = 16
_POSITIONS_KEPT = 8
_CHOSEN_SHARE = 4


class Place(NamedTuple):
    """A place in a spool: the number of the file, and the offset in it. Later places compare as greater."""

    sequence: int
    offset: int


@dataclass(frozen=True)
class Chunk:
    """Output from the front of a spool up to *end*, all of one UTC day, with its spans."""

    day: str
    payload: bytes
    end: Place
    spans: Sequence[Span] = ()


@dataclass(frozen=True)
class Intent:
    """A chunk that was about to be added to the object *key*, which had *size_before* bytes."""

    chunk: Chunk
    key: str
    size_before: int


class LogSpool:
    """The spool in *folder*, of about *max_bytes*; it continues what another process left there."""

    def __init__(self, folder: Path, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._file_bytes = max(1, max_bytes // _FILES_PER_SPOOL)
        self._lock = threading.Lock()
        self._files: list[SpoolFile] = []
        self._closed_positions: dict[Source, Position] = {}
        self._done = Place(0, 0)
        self._chosen = Place(0, 0)
        self._intent: tuple[Place, str, int] | None = None
        self._dropped_bytes = 0
        self.pending_bytes = 0
        """Bytes on disk that wait for upload, approximately; can be read at any time without disk access."""
        folder.mkdir(parents=True, exist_ok=True)
        self._recover()

    # --- the follower's side

    def position(self, container_id: str) -> Position | None:
        """Return how far this container's output has been taken; None when none of it has, or long ago."""
        source = source_of(container_id)
        with self._lock:
            for file in reversed(self._files):
                if source in file.positions:
                    return file.positions[source]
            return self._closed_positions.get(source)

    def append(
        self, container_id: str, day: str, payload: bytes, position: Position, spans: Sequence[Span] = ()
    ) -> Place:
        """Append output of a UTC day; *position* is the one after it. Afterwards a kill loses neither.

        Args:
            spans: of the payload, all of one run; made by :func:`~libs.docker_runner.logs.spans.few`.

        Raises:
            OSError: the disk is full or fails; nothing was added.
        """
        packed = pack(spans)
        with self._lock:
            last = self._files[-1] if self._files else None
            if last is None or last.dropped or last.day != day or last.size >= self._file_bytes:
                last = SpoolFile.create(self._folder, self._last_sequence() + 1, day)
                last.append(source_of(container_id), position, payload, packed)
                self._files.append(last)
            else:
                last.append(source_of(container_id), position, payload, packed)
            self._drop_oldest()
            self._count_pending()
            return Place(last.sequence, last.size)

    def limit(self, max_bytes: int) -> None:
        """Set the limit, about *max_bytes*, from the next append or :meth:`trim` on. Does not block."""
        self._max_bytes = max_bytes
        self._file_bytes = max(1, max_bytes // _FILES_PER_SPOOL)

    def trim(self) -> None:
        """Drop the oldest output beyond the limit now."""
        with self._lock:
            self._drop_oldest()
            self._count_pending()

    # --- the uploader's side

    def take_dropped(self) -> int:
        """Return how many bytes of output were dropped since the last call, because the spool was full."""
        with self._lock:
            dropped, self._dropped_bytes = self._dropped_bytes, 0
            return dropped

    def next_chunk(self, max_bytes: int) -> Chunk | None:
        """Return the output at the front: of one day, at most *max_bytes* or one record; None when there is none.

        It is not dropped before it is committed, even if the spool is full, and is therefore only a part of it.
        """
        with self._lock:
            chunk = self._chunk(min(max_bytes, self._max_bytes // _CHOSEN_SHARE), None)
            self._chosen = chunk.end if chunk is not None else self._done
            return chunk

    def intend(self, chunk: Chunk, key: str, size_before: int) -> Intent:
        """Record that *chunk* is about to be added to *key*; the record outlives this process."""
        with self._lock:
            self._intent = (chunk.end, key, size_before)
            self._save()
        return Intent(chunk, key, size_before)

    def intent(self) -> Intent | None:
        """Return the recorded intent that has not been committed: it may have been carried out or not."""
        with self._lock:
            if self._intent is None:
                return None
            end, key, size_before = self._intent
            chunk = self._chunk(None, end)
            return Intent(chunk, key, size_before) if chunk is not None else None

    def commit(self, chunk: Chunk) -> None:
        """Remove *chunk*, which is in its object, and the intent."""
        with self._lock:
            self._done = chunk.end
            self._intent = None
            finished = [file for file in self._files if (file.sequence, file.size) <= chunk.end]
            for file in finished:
                self._keep_positions(file)
            self._files = [file for file in self._files if file not in finished]
            self._count_pending()
            self._save()
            for file in finished:
                file.path.unlink(missing_ok=True)

    # --- readers

    def snapshot(self) -> "Snapshot":
        """Return the output that waits for upload; readable even if it is uploaded or dropped meanwhile."""
        with self._lock, ExitStack() as opened:
            parts: list[bytes | tuple[BinaryIO, int, int]] = []
            for file in self._files:
                if file.dropped:
                    parts.append(gap_line(file.payload_bytes))
                else:
                    handle = opened.enter_context(file.path.open("rb"))
                    parts.append((handle, self._begin(file), file.size))
            end = Place(self._files[-1].sequence, self._files[-1].size) if self._files else self._done
            return Snapshot(end, parts, opened.pop_all())

    # --- inside

    def _begin(self, file: SpoolFile) -> int:
        return self._done.offset if file.sequence == self._done.sequence else 0

    def _count_pending(self) -> None:
        # A note of dropped output is output too, to be uploaded in its place.
        self.pending_bytes = sum(1 if file.dropped else file.size - self._begin(file) for file in self._files)

    def _last_sequence(self) -> int:
        return max(self._done.sequence, self._files[-1].sequence if self._files else 0)

    def _chunk(self, max_bytes: int | None, until: Place | None) -> Chunk | None:
        """Return the front of the spool, up to *max_bytes* or up to the place *until*."""
        day = ""
        pieces: list[bytes] = []
        spans: list[Span] = []
        lost: list[bytes] = []
        total = 0
        end = self._done

        def chunk() -> Chunk | None:
            # Notes at the end precede no existing output.
            spans.extend(Span("", 0, len(note), 0, RUNTIME) for note in lost)
            return Chunk(day, b"".join(pieces), end, spans) if pieces else None

        for file in self._files:
            if day and file.day != day:
                break
            day = file.day
            if file.dropped:
                if until is not None and (file.sequence, file.size) > until:
                    break
                pieces.append(gap_line(file.payload_bytes))
                lost.append(pieces[-1])
                end = Place(file.sequence, file.size)
                continue
            for record in file.records(self._begin(file)):
                place = Place(file.sequence, record.end)
                full = max_bytes is not None and pieces and total + len(record.payload) > max_bytes
                if full or (until is not None and place > until):
                    return chunk()
                spans.extend(noted(lost, record))
                lost = []
                pieces.append(record.payload)
                total += len(record.payload)
                end = place
        return chunk()

    def _drop_oldest(self) -> None:
        # Output chosen for upload may be in the object already; the last file is being written.
        while sum(file.disk_bytes for file in self._files) > self._max_bytes:
            free = [file for file in self._files[:-1] if file.sequence > self._chosen.sequence]
            oldest = next((file for file in free if not file.dropped), None)
            if oldest is None:
                return
            index = self._files.index(oldest)
            before = self._files[index - 1] if index else None
            merged = before if before in free and before is not None and before.day == oldest.day else None
            self._keep_positions(oldest)
            self._save()
            gap = oldest.drop(self._begin(oldest), merged.payload_bytes if merged is not None else 0)
            self._files[index] = gap
            self._dropped_bytes += gap.payload_bytes
            if merged is not None:
                self._dropped_bytes -= merged.payload_bytes
                self._files.remove(merged)
                merged.path.unlink(missing_ok=True)

    def _keep_positions(self, file: SpoolFile) -> None:
        """Store them outside the file. Files are not removed in order of creation."""
        for source, position in file.positions.items():
            kept = self._closed_positions.get(source)
            if kept is None or kept.newest_ns <= position.newest_ns:
                self._closed_positions[source] = position

    def _recover(self) -> None:
        self._load()
        for leftover in self._folder.glob("*.new"):
            leftover.unlink()
        dropped = {path.stem for path in self._folder.glob("*.gap")}
        for path in sorted([*self._folder.glob("*.spool"), *self._folder.glob("*.gap")]):
            file = SpoolFile.recover(path)
            replaced = path.stem in dropped and not file.dropped
            if replaced or not file.payload_bytes or (file.sequence, file.size) <= self._done:
                self._keep_positions(file)
                path.unlink()
            else:
                self._files.append(file)
        self._count_pending()
        if self._intent is not None:
            self._chosen = self._intent[0]

    def _load(self) -> None:
        try:
            saved = json.loads((self._folder / "state.json").read_text())
        except (FileNotFoundError, ValueError):
            # Unreadable only after a power failure: then the last upload may be repeated.
            return
        self._done = Place(*saved["done"])
        if saved["intent"] is not None:
            end, key, size_before = saved["intent"]
            self._intent = (Place(*end), key, size_before)
        self._closed_positions = {
            bytes.fromhex(source): unpack_position(numbers) for source, numbers in saved["positions"].items()
        }

    def _save(self) -> None:
        while len(self._closed_positions) > _POSITIONS_KEPT:
            oldest = min(self._closed_positions, key=lambda source: self._closed_positions[source].newest_ns)
            del self._closed_positions[oldest]
        content = {
            "done": self._done,
            "intent": self._intent,
            "positions": {source.hex(): pack_position(at) for source, at in self._closed_positions.items()},
        }
        temporary = self._folder / "state.new"
        temporary.write_text(json.dumps(content))
        temporary.replace(self._folder / "state.json")


class Snapshot:
    """The content of a spool at one moment; *end* is the place after it. Iterate once, and close."""

    def __init__(self, end: Place, parts: list[bytes | tuple[BinaryIO, int, int]], opened: ExitStack) -> None:
        self.end = end
        self._parts = parts
        self._opened = opened

    def __iter__(self) -> Iterator[bytes]:
        for payload, _ in self.pieces():
            yield payload

    def pieces(self) -> Iterator[tuple[bytes, Sequence[Span]]]:
        """Yield the output with its spans."""
        lost: list[bytes] = []
        for part in self._parts:
            if isinstance(part, bytes):
                lost.append(part)
                continue
            file, begin, size = part
            for record in read_records(file, begin):
                if record.end > size:
                    break
                yield b"".join([*lost, record.payload]), noted(lost, record)
                lost = []
        for note in lost:
            yield note, [Span("", 0, len(note), 0, RUNTIME)]

    def close(self) -> None:
        """Close its files. May be repeated."""
        self._opened.close()


def noted(notes: Sequence[bytes], record: Record) -> list[Span]:
    """Return the spans of *record* with those of the runtime's *notes* before it."""
    spans = record.spans
    first = spans[0]
    return [*(Span(first.run, first.offset, len(note), first.time_us, RUNTIME) for note in notes), *spans]


def gap_line(dropped_bytes: int) -> bytes:
    """Return the note in a log in place of dropped output."""
    return b"[the0: %d bytes of output are missing here: the spool was full]\n" % dropped_bytes
