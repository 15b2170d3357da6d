"""What the init of a pod has sent, as files of this host: the run's folder as a container on this host would fill it.

So output, results and state of pods are read by the same code as those of containers. Blocks briefly.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from libs.docker_runner.containers.container import EndReason, ManagedContainer
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.pods.link import HEADER_BYTES, Record, records_in
from libs.docker_runner.state.folder import StateFolder, StateOf

_FILE_BYTES = 16 * 1024 * 1024
_FILES = 3
_READ_BYTES = 1024 * 1024


class OutputFiles:
    """The stream of output records of one pod, by offset, in a few files of which the oldest are removed.

    Only one task adds; any number read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.begin = self.end = 0
        """The offsets of the records that are here."""

    def open(self) -> None:
        """Create the folder, or continue with what an earlier process of this host left."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = self._files()
        if files:
            self.begin, self.end = files[0][0], files[-1][0] + files[-1][1].stat().st_size

    def add(self, offset: int, data: bytes) -> None:
        """Add *data* at *offset*. What is here already is skipped; after a gap, earlier output is dropped."""
        if offset + len(data) <= self.end:
            return
        if offset < self.end:
            data, offset = data[self.end - offset :], self.end
        files = self._files()
        if offset > self.end or not files:
            for _, path in files:
                path.unlink(missing_ok=True)
            self.begin = self.end = offset
            files = []
        path = files[-1][1] if files else self._folder / f"{offset:020d}"
        with path.open("ab") as file:
            file.write(data)
        self.end = offset + len(data)
        _, size = records_in(data)
        # A file begins with a record.
        if path.stat().st_size >= _FILE_BYTES and size == len(data):
            (self._folder / f"{self.end:020d}").touch()
        for begin, old in files[:-_FILES]:
            old.unlink(missing_ok=True)
            self.begin = max(self.begin, begin)

    def read(self, offset: int) -> tuple[list[Record], int]:
        """Return records from *offset* on, or from the oldest one, and the offset after them; none at the end."""
        for begin, path in self._files():
            try:
                size = path.stat().st_size
                if offset >= begin + size:
                    continue
                offset = max(offset, begin)
                with path.open("rb") as file:
                    file.seek(offset - begin)
                    records, taken = records_in(file.read(_READ_BYTES))
            except FileNotFoundError:
                continue
            if records:
                return records, offset + taken
        return [], offset

    def offset_after(self, stamp_ns: int, offset: int) -> int:
        """Return the offset after the last record up to the time *stamp_ns*, searching from *offset* on."""
        while True:
            records, end = self.read(offset)
            if not records:
                return offset
            late = next((n for n, record in enumerate(records) if record.stamp_ns > stamp_ns), None)
            if late is not None:
                return end - sum(HEADER_BYTES + len(record.data) for record in records[late:])
            offset = end

    def _files(self) -> list[tuple[int, Path]]:
        return sorted((int(path.name), path) for path in self._folder.iterdir() if path.name.isdigit())


class PodMirror:
    """The files of one pod below *folder*, the folder of its run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.output = OutputFiles(folder / "output")
        self._parts: dict[str, bytearray] = {}

    def open(self, container: ManagedContainer) -> None:
        """Create what another host has of the run, so that this one can take over. May be repeated."""
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.output.open()
        (self._folder / "outcome").touch()
        state = StateFolder(self._folder / "state", container.token)
        if container.entrypoint is Entrypoint.BOT and not state.path.exists():
            state.create(StateOf(container.id, container.service, container.segment, container.run_id))

    def put_outcome(self, offset: int, size: int, data: bytes) -> None:
        """Take a part of the outcome; it is replaced when it is complete."""
        self._put("outcome", self._folder / "outcome", offset, size, data)

    def put_state(self, offset: int, size: int, data: bytes) -> None:
        """Take a part of the archive of the state; it is replaced when it is complete."""
        self._put("state", self._folder / "state" / "saved", offset, size, data)

    def put_problem(self, word: str) -> None:
        """Replace the word about the problem of the state; "" for none."""
        path = self._folder / "state" / "problem"
        with suppress(OSError):
            if word:
                path.write_text(word)
            else:
                path.unlink(missing_ok=True)

    def mark(self, reason: EndReason) -> None:
        """Note why the pod ended, unless a worker has ended it, as ``RunFolders.mark_stopped`` does."""
        with suppress(FileExistsError, FileNotFoundError):
            descriptor = os.open(self._folder / "stopped", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(reason)

    def _put(self, name: str, target: Path, offset: int, size: int, data: bytes) -> None:
        parts = self._parts.setdefault(name, bytearray())
        if offset == 0:
            parts.clear()
        if offset != len(parts):
            return
        parts += data
        if len(parts) < size:
            return
        del self._parts[name]
        new = target.with_name(f".{target.name}.new")
        with suppress(FileNotFoundError):  # the run was removed
            new.write_bytes(parts)
            new.chmod(0o644)
            new.rename(target)


def lines_in(records: list[Record], since: datetime | None = None) -> Iterator[LogLine]:
    """Return the records from *since* on as the engine of containers would."""
    begin_ns = 0 if since is None else int(since.timestamp()) * 1_000_000_000 + since.microsecond * 1000
    for record in records:
        if record.stamp_ns >= begin_ns:
            whole = datetime.fromtimestamp(record.stamp_ns // 1_000_000_000, UTC)
            stamp = f"{whole:%Y-%m-%dT%H:%M:%S}.{record.stamp_ns % 1_000_000_000:09d}Z"
            for line in record.data.splitlines(keepends=True):
                yield LogLine(stamp, record.stream, line)
