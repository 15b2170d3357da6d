"""Keep the state of a local run in a folder of this machine: it is `/state` at the start, and its content afterwards.

The folder is replaced as a whole, by renaming another one: a run that is killed in between leaves the former content or
the new one.
"""

import asyncio
import fcntl
import io
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from libs.core.saved_state import SavedState, StateVersion
from libs.docker_runner.state.archives import StateContent, StateFile, StateLimits, compress, files_in, tar_of
from libs.docker_runner.state.keeper import StateKeeper
from libs.docker_runner.state.versions import Saved, StateVersions
from tools.author.local.workplace import Workplace
from tools.bots.errors import BotFolderInvalid

_KEY = "local"


class LocalStates(StateVersions):
    """The only version is the content of *directory*. There is one run, and no other owner.

    Args:
        scratch: a folder for a temporary file.
    """

    def __init__(self, directory: Path, limits: StateLimits, scratch: Path) -> None:
        # Without the parts of the parent, which are objects in a storage.
        self.directory = directory
        self._limits = limits
        self._run_id = ""
        self._version: StateVersion | None = None
        self._packed = scratch / "state.tar.gz"
        self.pointers = self

    # --- pointers

    async def read(self, entity_id: str) -> SavedState | None:
        """Return the version."""
        versions = () if self._version is None else (self._version,)
        return SavedState(run_id=self._run_id, number=len(versions), versions=versions)

    async def claim(self, entity_id: str, *, segment: int, epoch: int, run_id: str) -> SavedState | None:
        """Begin with the content of the folder."""
        self._run_id = run_id
        await asyncio.to_thread(self._load)
        return await self.read(entity_id)

    async def replace(self, entity_id: str, before: SavedState, after: SavedState) -> bool:
        """Not needed: :meth:`save` does not call it."""
        return False

    # --- versions

    async def fetch(self, version: StateVersion, path: Path) -> None:
        """Write the content that the run begins with."""
        await asyncio.to_thread(shutil.copyfile, self._packed, path)

    async def save(
        self,
        entity_id: str,
        archive: Path,
        content: StateContent,
        *,
        run_id: str,
        epoch: int,
        origin: str,
        may_save: Callable[[SavedState], bool],
    ) -> Saved | None:
        """Replace the content of the folder by that of *archive*."""
        if self._version is not None and self._version.sha256 == content.sha256:
            return Saved(self._version, is_new=False)
        await asyncio.to_thread(self._write, archive)
        self._version = _version(content)
        return Saved(self._version, is_new=True)

    async def renew_copy(self, entity_id: str, version: StateVersion, archive: Path) -> None:
        """Do nothing: the folder is the copy."""

    def _load(self) -> None:
        files = list(read_state(self.directory, self._limits))
        if files:
            tar = io.BytesIO(tar_of(files, time.time()))
            self._packed.unlink(missing_ok=True)
            self._version = _version(compress(tar, self._packed, self._limits))

    def _write(self, archive: Path) -> None:
        write_state(self.directory, files_in(archive.read_bytes(), self._limits))


def state_keeper(directory: Path, limits: StateLimits, place: Workplace, service: str) -> StateKeeper:
    """Return what keeps the state of the run in *place* in *directory*, as a worker does."""
    versions = LocalStates(directory, limits, place.folder)
    keeper = StateKeeper(versions, service=service, scope=place.scope, limits=limits, owns=lambda segment: True)
    keeper.begin(0, 0)
    return keeper


@asynccontextmanager
async def saved_meanwhile(keeper: StateKeeper | None) -> AsyncIterator[None]:
    """Save what changes during the block, in which a runner uses *keeper*."""
    if keeper is None:
        yield
        return
    saving = asyncio.create_task(keeper.run(), name="save state")
    try:
        yield
    finally:
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
        await keeper.close()


@contextmanager
def state_folder(directory: Path) -> Iterator[Path]:
    """Make *directory* if it is missing, and lock it for one run.

    Raises:
        BotFolderInvalid: it cannot be used; with the remedy.
    """
    directory = directory.absolute()
    if (directory.exists() and not directory.is_dir()) or os.path.ismount(directory):
        raise BotFolderInvalid(f"--state {directory} is no folder that can be replaced; name a folder below it")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(_beside(directory, "lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BotFolderInvalid(f"--state {directory} cannot be used: {error.strerror}; name another folder") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BotFolderInvalid(
                f"--state {directory} is in use by another run; end it, or name another folder"
            ) from None
        _recover(directory)
        yield directory
    finally:
        os.close(lock)


def read_state(directory: Path, limits: StateLimits) -> Iterator[StateFile]:
    """Yield the regular files and the folders in *directory*.

    Raises:
        BotFolderInvalid: there are more than a state may have.
    """
    size = 0
    for number, path in enumerate(sorted(directory.rglob("*"))):
        is_folder = path.is_dir() and not path.is_symlink()
        if path.is_symlink() or not (is_folder or path.is_file()):
            continue
        size += 0 if is_folder else path.stat().st_size
        if size > limits.size or number > limits.files:
            raise BotFolderInvalid(f"--state {directory} has more than a state may have: {limits.size} bytes")
        content = None if is_folder else path.read_bytes()
        yield StateFile(os.fsencode(path.relative_to(directory)), content, path.stat().st_mode & 0o777)


def write_state(directory: Path, files: list[StateFile]) -> None:
    """Make *files* the content of *directory*."""
    fresh = _beside(directory, f"new-{secrets.token_hex(4)}")
    try:
        fresh.mkdir()
        for file in sorted(files, key=lambda file: file.name):
            path = fresh / os.fsdecode(file.name)
            if file.content is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.content)
                path.chmod(file.mode | 0o600)
        old = _beside(directory, "old")
        directory.rename(old)
        fresh.rename(directory)
        shutil.rmtree(old)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _recover(directory: Path) -> None:
    """Complete the renaming of a killed run."""
    old = _beside(directory, "old")
    if old.exists() and not directory.exists():
        old.rename(directory)
    shutil.rmtree(old, ignore_errors=True)
    for unfinished in directory.parent.glob(f".{directory.name}.new-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    directory.mkdir(exist_ok=True)


def _beside(directory: Path, ending: str) -> Path:
    return directory.with_name(f".{directory.name}.{ending}")


def _version(content: StateContent) -> StateVersion:
    return StateVersion(
        key=_KEY + content.sha256,
        number=1,
        epoch=0,
        run_id="",
        etag="",
        sha256=content.sha256,
        size=content.size,
        files=content.files,
        archive_bytes=content.archive_bytes,
        saved_at=datetime.now(UTC),
    )
