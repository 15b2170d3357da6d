"""Verify that the Docker engine sees the worker's folders, at the same paths.

The engine mounts files of these folders into bots. If it has a file system of its own in their place, as the entry
point of `docker:dind` mounts one on /tmp, no bot starts. There are two checks:

- By mounts: the engine refuses a mount of a folder that it does not have. This needs no image and creates no container.
- By a container, which reads random files in the folders, as bots do. This needs a present image.

Only a check that shows that a folder is *not* seen counts against it, and only twice in a row. If the engine does not
answer in time or lacks the image, the previous result stays.
"""

import asyncio
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.core.aio.wake import Wake
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.core.process.isolation import repeat
from libs.docker_runner.engine.client import Engine, NameTaken, NoSuchImage
from libs.docker_runner.engine.helper_container import ended_helper, locked_up

log = get_logger(__name__)

TEMP_DIR = "TEMP_DIR"
KEEPALIVE_DIR = "KEEPALIVE_DIR"
SPEC_DIR = "SPEC_DIR"
SAFE_TEMP_DIR = Path("/var/lib/the0")
"""A work folder over which no known engine mounts anything; deploy/ sets it."""

_AGAIN_SECONDS = 2.0
_PROVEN_SECONDS = 3600.0
_PREFIX = ".sight-"
_STALE_SECONDS = 3600.0
# Above the exit codes of a failing interpreter, and below those of a killed one.
_NOT_SEEN = 64
# Ends with 0, or with a bit for each folder whose file is missing or has another content.
_READ = f"""
import sys
unseen = 0
for number in range(int(sys.argv[1])):
    try:
        with open(f"/sight/{{number}}/proof") as file:
            unseen |= (file.read() != sys.argv[2]) << number
    except OSError:
        unseen |= 1 << number
sys.exit({_NOT_SEEN} + unseen if unseen else 0)
"""


@dataclass(frozen=True)
class FolderCheck:
    """The result of a check: the names of the folders that are not seen; meaningless unless *known*."""

    unseen: frozenset[str] = frozenset()
    known: bool = True


UNKNOWN = FolderCheck(known=False)


@dataclass(frozen=True)
class Proofs:
    """Folders created for one check, one in each of the worker's, with a file that contains *token*."""

    places: Sequence[Path]
    token: str


class FolderSight:
    """Whether the engine sees a worker's folders.

    Args:
        folders: the name of the setting of each folder, to the folder. At most six.
        image: an image with ``python3``. It is not pulled for this.
    """

    def __init__(self, engine: Engine, folders: Mapping[str, Path], image: str) -> None:
        self._engine = engine
        self._folders = dict(folders)
        self._image = image
        self._unseen: frozenset[str] = frozenset()
        self._unseen_by_container = False
        self._doubts = 1
        self._settled_doubts = 0
        self._wake = Wake()

    @property
    def complaint(self) -> str:
        """The folders that the engine does not see, and the remedy; empty when it sees all, or nothing is known."""
        return complaint({name: self._folders[name] for name in self._folders if name in self._unseen})

    @property
    def proven(self) -> bool:
        """Whether a container has seen all folders since the last doubt."""
        return self._settled_doubts == self._doubts

    def doubt(self) -> None:
        """Check again soon: the engine was down or is another one. Until then the last result stays."""
        self._doubts += 1
        self._wake.set()

    async def run(self) -> None:
        """Check until all folders are proven to be seen, and again after each doubt, forever."""

        async def one_round() -> float:
            if not self.proven:
                await self.check()
            return _PROVEN_SECONDS if self.proven else _AGAIN_SECONDS

        await repeat("look at what the engine sees", one_round, _AGAIN_SECONDS, wake=self._wake)

    async def check(self) -> None:
        """Check in both ways. May be repeated; errors of the engine or the disk are not raised."""
        doubts = self._doubts
        with observe("containers", "look at folders"):
            if not await self.check_by_mounts():
                return
            checked = await _confirmed(self._by_container)
        self._take(checked, by_container=True)
        if checked.known and not checked.unseen:
            self._settled_doubts = doubts

    async def check_by_mounts(self) -> bool:
        """Check without an image; return whether all folders are seen. As :meth:`check` else."""
        checked = await _confirmed(self._by_mounts)
        self._take(checked, by_container=False)
        return checked.known and not checked.unseen

    def _take(self, checked: FolderCheck, *, by_container: bool) -> None:
        # A folder that a container did not see counts as hidden until a container sees it.
        if not checked.known or (self._unseen_by_container and not by_container and not checked.unseen):
            return
        before, self._unseen = self._unseen, checked.unseen
        self._unseen_by_container = by_container and bool(checked.unseen)
        if checked.unseen and checked.unseen != before:
            log.error("this worker accepts no segments", reason=self.complaint)
        elif before and not checked.unseen:
            log.info("the Docker engine sees the worker's folders")

    async def _by_mounts(self) -> FolderCheck:
        async with _proofs(self._folders.values()) as proofs:
            # Their random names exist on no other host, where the same path may be another folder.
            seen = await asyncio.gather(*(self._engine.sees(place) for place in proofs.places))
        return FolderCheck(frozenset(name for name, is_seen in zip(self._folders, seen, strict=True) if not is_seen))

    async def _by_container(self) -> FolderCheck:
        async with (
            _proofs(self._folders.values()) as proofs,
            ended_helper(self._engine, self._image, _reader(proofs)) as helper,
        ):
            ended = await self._engine.inspect(helper)
        return read_by(ended.container.exit_code if ended is not None else None, list(self._folders))


def complaint(unseen: Mapping[str, Path]) -> str:
    """Return the settings whose folders the engine does not see, and the remedy; empty for none."""
    if not unseen:
        return ""
    named = " and ".join(f"{name}={path}" for name, path in unseen.items())
    what, where = ("folder", "path") if len(unseen) == 1 else ("folders", "paths")
    text = (
        f"the Docker engine does not see {named}: mount the same {what} at the same {where} in the engine's container"
    )
    if unseen.get(TEMP_DIR, SAFE_TEMP_DIR) != SAFE_TEMP_DIR:
        text += f", or set {TEMP_DIR}={SAFE_TEMP_DIR}"
    return text


def read_by(exit_code: int | None, names: Sequence[str]) -> FolderCheck:
    """Return the result of a reader's exit code for the folders *names*; None: unknown."""
    if exit_code == 0:
        return FolderCheck()
    if exit_code is None or not _NOT_SEEN < exit_code < _NOT_SEEN + (1 << len(names)):
        return UNKNOWN
    return FolderCheck(frozenset(name for number, name in enumerate(names) if (exit_code - _NOT_SEEN) >> number & 1))


async def _confirmed(way: Callable[[], Awaitable[FolderCheck]]) -> FolderCheck:
    """Run a check; a folder counts as not seen only if a second one confirms it."""
    first = await _tried(way)
    if not first.unseen:
        return first
    second = await _tried(way)
    return FolderCheck(first.unseen & second.unseen) if second.known else second


async def _tried(way: Callable[[], Awaitable[FolderCheck]]) -> FolderCheck:
    try:
        return await way()
    except (RuntimeFault, NoSuchImage, NameTaken, OSError) as error:
        log.debug("the folders that the engine sees are unknown", reason=f"{type(error).__name__}: {error}")
        return UNKNOWN


def _reader(proofs: Proofs) -> dict[str, Any]:
    mounts = [
        {
            "Type": "bind",
            "Source": str(place),
            "Target": f"/sight/{number}",
            "ReadOnly": True,
            "BindOptions": {"Propagation": "rprivate"},
        }
        for number, place in enumerate(proofs.places)
    ]
    return {
        "Entrypoint": ["python3", "-I", "-S", "-B", "-c", _READ, str(len(mounts)), proofs.token],
        "User": "10001:10001",
        "HostConfig": {**locked_up(), "NetworkMode": "none", "Mounts": mounts},
    }


@asynccontextmanager
async def _proofs(folders: Iterable[Path]) -> AsyncIterator[Proofs]:
    token = secrets.token_hex(16)
    proofs = Proofs([folder / f"{_PREFIX}{token[:16]}" for folder in folders], token)
    try:
        await asyncio.to_thread(_make, proofs)
        yield proofs
    finally:
        await asyncio.to_thread(_remove, proofs)


def _make(proofs: Proofs) -> None:
    for place in proofs.places:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(place.parent)
        place.mkdir()
        (place / "proof").write_text(proofs.token)
        # Regardless of the umask: the reader is another user.
        (place / "proof").chmod(0o644)
        place.chmod(0o755)


def _remove(proofs: Proofs) -> None:
    for place in proofs.places:
        shutil.rmtree(place, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    """Remove the files of a worker that was killed during a check."""
    for place in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - place.lstat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(place, ignore_errors=True)
