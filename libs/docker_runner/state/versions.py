"""The versions of saved state: objects in storage, and the pointer in the entity's document that decides.

A save writes a new object, then moves the pointer by compare-and-set, then removes what is no longer kept and renews
the copy for readers outside. A process that dies in between leaves at most an object without a pointer, which the
garbage collector removes, or an older copy, which the next save replaces.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.saved_state import SavedState, StateVersion
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.state.archives import StateContent
from libs.docker_runner.state.keys import copy_key, new_version_key

log = get_logger(__name__)

_ROUNDS = 5
_TYPE = "application/gzip"


class StatePointers(Protocol):
    """The pointers to saved state, in the documents of one service's entities."""

    async def read(self, entity_id: str) -> SavedState | None:
        """Return the state of an entity; None when there is no such entity."""

    async def claim(self, entity_id: str, *, segment: int, epoch: int, run_id: str) -> SavedState | None:
        """Make *run_id* the run whose state is saved; None when the entity or the claim belongs to another owner."""

    async def replace(self, entity_id: str, before: SavedState, after: SavedState) -> bool:
        """Write *after* if the state is still *before*; return whether it was."""


@dataclass(frozen=True)
class Saved:
    """The current version after a save, and whether the save made it."""

    version: StateVersion
    is_new: bool


class StateContended(RuntimeFault):
    """Others change the saved state all the time."""


class StateVersions:
    """The versions of the entities of one *service*. Each operation may be repeated."""

    def __init__(self, objects: ObjectStore, bucket: str, pointers: StatePointers, service: str) -> None:
        self._objects = objects
        self._bucket = bucket
        self._service = service
        self.pointers = pointers

    async def fetch(self, version: StateVersion, path: Path) -> None:
        """Write the object of *version* into the new file *path*."""
        await self._objects.get_to_file(
            self._bucket, version.key, path, etag=version.etag, max_bytes=version.archive_bytes
        )

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
        """Make *archive*, a compressed tar with *content*, the current version.

        Args:
            run_id: of the run that made it; "" without one, and then no run may save until the next start.
            may_save: decides by the current state; called again when that was changed meanwhile.

        Returns:
            The current version, an earlier one when that has the same content; None when it may not be saved.
        """
        for _ in range(_ROUNDS):
            state = await self.pointers.read(entity_id)
            if state is None or not may_save(state):
                return None
            latest = state.latest
            if latest is not None and latest.sha256 == content.sha256:
                return Saved(latest, is_new=False)
            version = await self._stored(entity_id, archive, content, state, run_id, epoch, origin)
            changed, dropped = state.adding(version)
            if not run_id:
                # The last state of a run that has ended must not replace it.
                changed = replace(changed, run_id="")
            if await self.pointers.replace(entity_id, state, changed):
                for old in dropped:
                    await self._remove(old.key)
                return Saved(version, is_new=True)
            await self._remove(version.key)
        raise StateContended(f"the state of {entity_id!r} was changed {_ROUNDS} times while it was saved")

    async def renew_copy(self, entity_id: str, version: StateVersion, archive: Path) -> None:
        """Make the copy for readers outside equal to the current version, which is *version* unless it changed."""
        for _ in range(_ROUNDS):
            await self._objects.put_file(self._bucket, copy_key(entity_id), archive, _TYPE)
            state = await self.pointers.read(entity_id)
            latest = state.latest if state is not None else None
            if latest is None or latest.key == version.key:
                return
            version, archive = latest, archive.with_name(f"{archive.name}.{latest.number}")
            await self.fetch(version, archive)

    async def _stored(
        self,
        entity_id: str,
        archive: Path,
        content: StateContent,
        state: SavedState,
        run_id: str,
        epoch: int,
        origin: str,
    ) -> StateVersion:
        number = state.number + 1
        key = new_version_key(self._service, entity_id, epoch, number)
        etag = await self._objects.put_file(self._bucket, key, archive, _TYPE)
        return StateVersion(
            key=key,
            number=number,
            epoch=epoch,
            run_id=run_id,
            etag=etag.strip('"'),
            sha256=content.sha256,
            size=content.size,
            files=content.files,
            archive_bytes=content.archive_bytes,
            saved_at=datetime.now(UTC),
            origin=origin,
        )

    async def _remove(self, key: str) -> None:
        try:
            await self._objects.remove(self._bucket, key)
        except RuntimeFault as error:
            log.info("an old state is left for the garbage collector", key=key, reason=str(error))
