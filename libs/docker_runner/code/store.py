"""The folder of unpacked code, shared by the workers of one host. All calls block.

::

    trees/<digest>/          the unpacked code of one version; it appears whole, by a rename
    trees/<digest>.json      its description; the modification time is its last use
    refs/<digest of ref>     the version of an object at the last query
    holds/<digest>/<name>    an empty file for each container that mounts the tree
    locks/                   locked while a version is fetched, or pins change
    work/                    unfinished downloads, each with a lock file that its process holds

A digest stands for bucket, key, ETag and the SHA-256 that was checked, so nothing is changed in place. A killed process
leaves at most a folder under ``work/``, whose lock the kernel has released. Modification times and pins only affect
removal: losing one costs a download, never the wrong code. Trees from before the host's last boot are dropped, since a
power failure may have left some of their files empty.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from libs.core.leases.boot_clock import this_boot
from libs.core.observability.log import get_logger

log = get_logger(__name__)

_FETCH_LOCKS = 64
_PINS_LOCK = "holds"


@dataclass(frozen=True)
class Version:
    """One version of one object; *sha256* is the digest that its archive was checked against, if any."""

    bucket: str
    key: str
    etag: str
    sha256: str | None = None

    @property
    def digest(self) -> str:
        """A name for it that is safe as a folder name."""
        checked = () if self.sha256 is None else (self.sha256,)
        return _digest(self.bucket, self.key, self.etag, *checked)


@dataclass(frozen=True)
class _Manifest:
    version: Version
    total_bytes: int
    boot_id: str


class CodeStore:
    """The store in *directory*; any number of processes and threads may use it concurrently."""

    def __init__(self, directory: Path) -> None:
        self._trees = directory / "trees"
        self._refs = directory / "refs"
        self._pins = directory / "holds"
        self._locks = directory / "locks"
        self._work = directory / "work"

    def open(self) -> None:
        """Create the folders, and remove what killed processes and earlier boots of the host left."""
        for folder in (self._trees, self._refs, self._pins, self._locks, self._work):
            folder.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned_work()
        with self._locked(_PINS_LOCK):
            for tree in [path for path in self._trees.iterdir() if path.is_dir()]:
                manifest = self._manifest(tree.name)
                if manifest is None or (manifest.boot_id != this_boot() and not self._holders(tree.name)):
                    self._discard(tree.name)
            for leftover in self._trees.glob("*.json*"):
                if not (self._trees / leftover.name.split(".")[0]).is_dir():
                    leftover.unlink(missing_ok=True)
            for reference in self._refs.iterdir():
                if not (self._trees / _last_line(reference)).is_dir():
                    reference.unlink(missing_ok=True)
        self._remove_abandoned_work()

    def path(self, version: Version) -> Path:
        """Return the path of the version's tree, whether it exists or not."""
        return self._trees / version.digest

    def use(self, version: Version, holder: str | None) -> bool:
        """Whether the version is cached; if so mark it as used now and last known, and pin it for *holder*."""
        with self._locked(_PINS_LOCK):
            if not self.path(version).is_dir():
                return False
            os.utime(self._trees / f"{version.digest}.json")
            reference = self._refs / _digest(version.bucket, version.key)
            content = f"{version.etag}\n{version.digest}"
            if not reference.exists() or reference.read_text() != content:
                _write_whole(reference, content)
            if holder is not None:
                self._place_pin(version.digest, holder)
            return True

    def last_known(self, bucket: str, key: str, sha256: str | None = None) -> Version | None:
        """Return the version of this object that was last used, if its tree may still exist."""
        try:
            etag = (self._refs / _digest(bucket, key)).read_text().split("\n")[0]
        except FileNotFoundError:
            return None
        return Version(bucket, key, etag, sha256)

    def install(self, version: Version, unpacked: Path, total_bytes: int) -> None:
        """Move the finished folder *unpacked*, which is on the same disk, into its place."""
        manifest = _Manifest(version, total_bytes, this_boot())
        _write_whole(self._trees / f"{version.digest}.json", json.dumps(asdict(manifest)))
        try:
            unpacked.rename(self.path(version))
        except OSError:
            if not self.path(version).is_dir():
                raise

    def pin(self, digest: str, holder: str) -> None:
        """Keep the tree for *holder*."""
        with self._locked(_PINS_LOCK):
            self._place_pin(digest, holder)

    def release(self, holder: str) -> None:
        """Drop all pins of *holder*."""
        for pin in self._pins.glob(f"*/{_pin_name(holder)}"):
            pin.unlink(missing_ok=True)

    def drop_stale_pins(self, live: Collection[str], older_than_seconds: float) -> int:
        """Drop the pins of all except *live*, young ones excepted; return how many."""
        names = {_pin_name(name) for name in live}
        dropped = 0
        for pin in self._pins.glob("*/*"):
            try:
                old = time.time() - pin.stat().st_mtime > older_than_seconds
                if old and pin.name not in names:
                    pin.unlink()
                    dropped += 1
            except FileNotFoundError:
                continue
        return dropped

    def size_bytes(self) -> int:
        """Return the total bytes of all trees."""
        return sum(manifest.total_bytes for _, manifest in self._by_age())

    def evict(self, max_bytes: int, keep_seconds: float) -> list[Version]:
        """Remove trees, least recently used first, until at most *max_bytes* are left; return the removed versions.

        Pinned trees and those used within *keep_seconds* stay.
        """
        evicted = []
        with self._locked(_PINS_LOCK):
            trees = self._by_age()
            total = sum(manifest.total_bytes for _, manifest in trees)
            for used_at, manifest in trees:
                if total <= max_bytes:
                    break
                digest = manifest.version.digest
                if time.time() - used_at < keep_seconds or self._holders(digest):
                    continue
                try:
                    self._discard(digest)
                except OSError as error:
                    # Others may be removable.
                    log.warning("code cannot be evicted", digest=digest, reason=str(error))
                    continue
                total -= manifest.total_bytes
                evicted.append(manifest.version)
        self._remove_abandoned_work()
        return evicted

    def try_lock(self, version: Version) -> int | None:
        """Lock the fetching of this version on this host: return a descriptor to close, or None when it is locked."""
        slot = int(version.digest[:8], 16) % _FETCH_LOCKS
        descriptor = os.open(self._locks / f"fetch-{slot}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if _flock(descriptor, wait=False):
            return descriptor
        os.close(descriptor)
        return None

    def begin_work(self) -> tuple[Path, int]:
        """Return a new folder on the same disk, and the descriptor of its lock; pass both to :meth:`end_work`."""
        while True:
            name = uuid.uuid4().hex
            lock = self._work / f"{name}.lock"
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            # Before it is locked, another process may take a lock file for abandoned.
            if _flock(descriptor, wait=False) and lock.exists():
                folder = self._work / name
                try:
                    folder.mkdir()
                except OSError:
                    lock.unlink(missing_ok=True)
                    os.close(descriptor)
                    raise
                return folder, descriptor
            os.close(descriptor)

    def end_work(self, folder: Path, descriptor: int) -> None:
        """Remove the folder. After a crash, the next cleaning of the store removes it."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
        os.close(descriptor)

    # --- inside

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        descriptor = os.open(self._locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _flock(descriptor, wait=True)
            yield
        finally:
            os.close(descriptor)

    def _place_pin(self, digest: str, holder: str) -> None:
        folder = self._pins / digest
        folder.mkdir(exist_ok=True)
        (folder / _pin_name(holder)).touch()

    def _holders(self, digest: str) -> list[str]:
        folder = self._pins / digest
        return os.listdir(folder) if folder.is_dir() else []

    def _by_age(self) -> list[tuple[float, _Manifest]]:
        found = []
        for path in self._trees.glob("*.json"):
            manifest = self._manifest(path.stem)
            if manifest is not None and self.path(manifest.version).is_dir():
                found.append((path.stat().st_mtime, manifest))
        return sorted(found, key=lambda aged: aged[0])

    def _manifest(self, digest: str) -> _Manifest | None:
        try:
            read = json.loads((self._trees / f"{digest}.json").read_text())
            return _Manifest(Version(**read["version"]), int(read["total_bytes"]), str(read["boot_id"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _discard(self, digest: str) -> None:
        """Move the tree away at once; its files are removed with the abandoned work."""
        (self._trees / digest).rename(self._work / f"{digest}.{uuid.uuid4().hex}")
        (self._trees / f"{digest}.json").unlink(missing_ok=True)
        shutil.rmtree(self._pins / digest, ignore_errors=True)

    def _remove_abandoned_work(self) -> None:
        for path in list(self._work.iterdir()):
            name = path.name.split(".")[0]
            lock = self._work / f"{name}.lock"
            try:
                descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                # A discarded tree has no lock, and a workspace has one before it has a folder.
                if path.suffix != ".lock":
                    shutil.rmtree(path, ignore_errors=True)
                continue
            try:
                if _flock(descriptor, wait=False):
                    shutil.rmtree(self._work / name, ignore_errors=True)
                    lock.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def _flock(descriptor: int, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:40]


def _pin_name(holder: str) -> str:
    name = quote(holder, safe=" ", errors="surrogatepass")
    return name if 0 < len(name) <= 200 and not name.startswith(".") else "." + _digest(holder)


def _last_line(path: Path) -> str:
    return path.read_text().split("\n")[-1]


def _write_whole(path: Path, content: str) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
