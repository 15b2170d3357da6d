"""Show and change the saved state of a bot or schedule that does not run."""

import asyncio
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from libs.core.errors import RuntimeFault, UserError
from libs.core.saved_state import SavedState, StateVersion
from libs.docker_runner.state.archives import (
    StateContent,
    StateFile,
    StateLimits,
    StateRefused,
    compress,
    files_in,
    tar_of,
)
from libs.docker_runner.state.versions import StateVersions

# The SDK's folder below /state, and the suffix of its files.
_SDK = b".the0-state"
_SUFFIX = ".json"

Files = Mapping[bytes, StateFile]


class NoSuchState(RuntimeFault):
    """The entity, the version or the key does not exist."""


class NoOwnerOfState(NoSuchState):
    """The entity does not exist."""

    def __init__(self, entity_id: str) -> None:
        super().__init__(f"there is no {entity_id!r}")
        self.entity_id = entity_id


class StateChanged(RuntimeFault):
    """A start or another command changed the state meanwhile."""


class StateFileRejected(UserError):
    """A file to import is no archive of a state."""


def sdk_key(name: bytes) -> str | None:
    """Return the SDK's key of the file *name*; None for other files."""
    folder, _, file = name.rpartition(b"/")
    text = file.decode(errors="replace")
    return text.removesuffix(_SUFFIX) if folder == _SDK and text.endswith(_SUFFIX) else None


def name_of(key: str) -> bytes:
    """Return the file of the SDK's *key*.

    Raises:
        UserError: the SDK refuses such a key.
    """
    if not key or "/" in key or "\\" in key or ".." in key or "\0" in key:
        raise UserError(f"a key of the state cannot be empty, or contain a slash or '..': {key!r}")
    return _SDK + b"/" + f"{key}{_SUFFIX}".encode()


class SavedStates:
    """The saved states of one service's entities, from the command line.

    Args:
        limits: the largest state that is read and written.
    """

    def __init__(self, versions: StateVersions, limits: StateLimits) -> None:
        self._versions = versions
        self._limits = limits

    async def read(self, entity_id: str) -> SavedState:
        """Return the versions."""
        found = await self._versions.pointers.read(entity_id)
        if found is None:
            raise NoOwnerOfState(entity_id)
        return found

    async def version(self, entity_id: str, number: int | None = None) -> StateVersion | None:
        """Return version *number*, or the current one; None when nothing is saved."""
        state = await self.read(entity_id)
        if number is None:
            return state.latest
        for version in state.versions:
            if version.number == number:
                return version
        kept = ", ".join(str(version.number) for version in state.versions) or "none"
        raise NoSuchState(f"{entity_id!r} has no version {number} of its state; kept are: {kept}")

    async def archive(self, version: StateVersion | None) -> bytes:
        """Return the compressed tar of *version*, that of an empty state for None."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "state.tar.gz")
            if version is None:
                _compressed(tar_of([], time.time()), path, self._limits)
            else:
                await self._versions.fetch(version, path)
            return await asyncio.to_thread(path.read_bytes)

    async def files(self, version: StateVersion | None) -> Files:
        """Return the files and folders of *version*."""
        return {file.name: file for file in files_in(await self.archive(version), self._limits)}

    async def change(self, entity_id: str, origin: str, change: Callable[[Files], Files]) -> StateVersion:
        """Make the current version, changed by *change*, a new version.

        Raises:
            StateChanged: the state is another one now.
        """
        before = await self.read(entity_id)
        files = change(await self.files(before.latest))
        return await self._write(entity_id, before, files, origin)

    async def replace(self, entity_id: str, origin: str, archive: bytes) -> StateVersion:
        """Make *archive*, a tar, compressed or not, a new version."""
        before = await self.read(entity_id)
        try:
            files = {file.name: file for file in files_in(archive, self._limits)}
        except StateRefused as error:
            raise StateFileRejected(f"the archive {error.reason}") from error
        return await self._write(entity_id, before, files, origin)

    async def clear(self, entity_id: str) -> StateVersion:
        """Make an empty state a new version."""
        return await self._write(entity_id, await self.read(entity_id), {}, "clear")

    async def _write(self, entity_id: str, before: SavedState, files: Files, origin: str) -> StateVersion:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "state.tar.gz")
            try:
                content = _compressed(tar_of(files.values(), time.time()), path, self._limits)
            except StateRefused as error:
                raise StateFileRejected(f"the state {error.reason}") from error
            saved = await self._versions.save(
                entity_id,
                path,
                content,
                run_id="",
                epoch=before.epoch,
                origin=origin,
                may_save=lambda state: (state.number, state.run_id) == (before.number, before.run_id),
            )
            if saved is None:
                raise StateChanged(f"the state of {entity_id!r} was changed meanwhile; nothing is written, try again")
            await self._versions.renew_copy(entity_id, saved.version, path)
        return saved.version


def with_value(name: bytes, value: object) -> Callable[[Files], Files]:
    """Return the change that sets the file *name* to *value* as JSON."""
    content = json.dumps(value).encode()
    return lambda files: {**files, name: StateFile(name, content)}


def without(name: bytes) -> Callable[[Files], Files]:
    """Return the change that removes the file *name*."""
    return lambda files: {other: file for other, file in files.items() if other != name}


def _compressed(tar: bytes, path: Path, limits: StateLimits) -> StateContent:
    return compress(io.BytesIO(tar), path, limits)
