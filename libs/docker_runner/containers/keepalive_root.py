"""Choose the folder of keepalive files: in memory, where neither bots nor a full disk prevent a refresh.

A keepalive that cannot be refreshed ends the bots that watch it. Below TEMP_DIR it would share a disk with code, work
files and log spools. The Docker engine mounts the files into containers, so that it must see them at the same path.
"""

import asyncio
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from libs.core.errors import Retryable, UserError
from libs.core.observability.log import get_logger

log = get_logger(__name__)

_MEMORY = ("tmpfs", "ramfs")
_LOCAL = (*_MEMORY, "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "overlay")
_ATTEMPTS = 3
_RETRY_SECONDS = 0.5


class Sight(Protocol):
    """The engine's part; implemented by :class:`~libs.docker_runner.engine.client.Engine`."""

    async def sees(self, folder: Path) -> bool:
        """Return whether *folder* exists on the engine's host."""


class KeepaliveDirUnusable(UserError):
    """KEEPALIVE_DIR names a folder that cannot hold keepalive files."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"KEEPALIVE_DIR {folder}: {reason}")
        self.folder, self.reason = folder, reason


class KeepaliveDirUnseen(KeepaliveDirUnusable):
    """The Docker engine does not see KEEPALIVE_DIR at the same path."""


def usual_roots() -> Sequence[Path]:
    """The folders in memory that are tried without KEEPALIVE_DIR, the best first."""
    name = f"the0-runtime-{os.geteuid()}"
    return [Path("/dev/shm") / name, Path("/run") / name]  # noqa: S108 - made with care, see make_own


@dataclass(frozen=True)
class KeepalivePlaces:
    """The folders with the keepalives of one service and deployment on one engine, a folder in it for each segment.

    *former* ones may be watched by adopted containers, which were started by an older version or with other settings.
    """

    current: Path
    former: tuple[Path, ...]


def keepalive_places(
    root: Path, other_roots: Sequence[Path], *, service: str, scope: str, engine_id: str, boot_id: str
) -> KeepalivePlaces:
    """Return the places below *root*, the folder for keepalive files, and below *other_roots*. Pure.

    Two engines may share a root: two of one host, or of several hosts by a network file system. A worker of one must
    not extend the life of the other's containers, so the engine's id is part of the name; and the boot's, since cloned
    machines have engines of the same id.
    """
    # Ids come from outside and scopes from the runtime, but both are used in paths only as digests.
    name = _digest(service, scope, engine_id, boot_id)
    names = (name, _digest(service, scope))
    places = dict.fromkeys(one / each for one in (root, *other_roots) for each in names)
    return KeepalivePlaces(root / name, tuple(place for place in places if place != root / name))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


async def keepalive_root(wanted: Path | None, temp_dir: Path, engine: Sight) -> Path:
    """Return the folder for keepalive files: *wanted*, else the first usable one in memory, else one below *temp_dir*.

    Raises:
        KeepaliveDirUnusable: *wanted* cannot be written.
        KeepaliveDirUnseen: the engine does not see *wanted*.
    """
    if wanted is not None:
        await _check_wanted(wanted, engine)
        return wanted
    for root in usual_roots():
        if await asyncio.to_thread(make_own, root) and await is_seen(root, engine, unknown=False):
            return root
    root = temp_dir / "keepalive"
    log.warning(
        "keepalive files are on TEMP_DIR's disk, and bots end when it is full; set KEEPALIVE_DIR to a folder in memory "
        "that the Docker engine sees at the same path",
        folder=str(root),
    )
    return root


async def _check_wanted(root: Path, engine: Sight) -> None:
    try:
        await asyncio.to_thread(_try_to_write, root)
    except OSError as error:
        raise KeepaliveDirUnusable(
            root, f"it cannot be written ({error.strerror or error}); make it for user {os.geteuid()}"
        ) from error
    if not await is_seen(root, engine, unknown=True):
        raise KeepaliveDirUnseen(root, "the Docker engine does not see it; mount it at the same path on both sides")
    if not is_in_memory(root):
        log.warning("KEEPALIVE_DIR is on a disk; bots stop when that disk is full", folder=str(root))


async def is_seen(root: Path, engine: Sight, *, unknown: bool) -> bool:
    """Whether the engine sees *root*; *unknown* when it does not answer."""
    # A name that exists on no other host: the same path may be another folder there.
    probe = root / f".probe-{secrets.token_hex(8)}"
    try:
        await asyncio.to_thread(probe.mkdir)
        for _ in range(_ATTEMPTS):
            try:
                return await engine.sees(probe)
            except Retryable as error:
                log.info("engine not probed for a folder", folder=str(root), reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
    except OSError as error:
        log.info("folder cannot hold files of containers", folder=str(root), reason=str(error))
        return False
    else:
        return unknown
    finally:
        await asyncio.to_thread(_remove, probe)


def is_in_memory(folder: Path) -> bool:
    """Whether *folder*, or its future parent, is on a file system in memory."""
    return _file_system(folder) in _MEMORY


def is_on_this_kernel(folder: Path) -> bool:
    """Whether this kernel alone knows the locks of files in *folder*: no other host or server has a part in them."""
    return _file_system(folder) in _LOCAL


def _file_system(folder: Path) -> str:
    """Return the type of the file system of *folder*, or of its future parent; empty when unknown."""
    found, kind = "", ""
    path = os.path.realpath(folder)
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in mounts:
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].encode().decode("unicode_escape", "replace")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # Of two on one mount point the later one counts.
        if inside and len(point) >= len(found):
            found, kind = point, after.split(" ")[0]
    return kind


def make_own(root: Path) -> bool:
    """Create *root* in memory, writable only by this user; return False when impossible."""
    if not root.parent.is_dir() or not is_in_memory(root):
        return False
    try:
        root.mkdir(mode=0o755, exist_ok=True)
        made = root.lstat()
        # All users may create folders beside it. One of another user could contain lease files of that user's.
        if not stat.S_ISDIR(made.st_mode) or made.st_uid != os.geteuid() or made.st_mode & 0o022:
            log.warning("folder belongs to another user or is open to others", folder=str(root))
            return False
        _try_to_write(root)
    except OSError as error:
        log.info("folder cannot hold files of containers", folder=str(root), reason=str(error))
        return False
    return True


def _try_to_write(root: Path) -> None:
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    if root.stat().st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, "it belongs to another user, whose lease files could be in it")
    probe = root / f".probe-{secrets.token_hex(8)}"
    try:
        probe.write_text("lease")
    finally:
        probe.unlink(missing_ok=True)


def _remove(probe: Path) -> None:
    try:
        probe.rmdir()
    except OSError:
        return
