"""The saved state of a bot as its document has it: which versions there are, and who may add one. Pure.

The document decides which version is current. A start *claims* the state for its run, under the epoch of the segment's
owner; from then on only the state of that run is saved. So a worker that lost the segment can neither claim it after
its successor did, nor save over what the run of the successor saved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

FIELD = "saved_state"
"""The field of an entity's document."""

KEPT_VERSIONS = 10


@dataclass(frozen=True)
class StateVersion:
    """One version. Its object never changes.

    Attributes:
        key: of the object in the state bucket: a tar.gz.
        number: 1 for the first one; higher than those of all earlier versions.
        epoch: of the owner that saved it; 0 for one from the command line.
        run_id: whose state it is; "" for one from the command line.
        sha256: of the tar, not compressed.
        size, files: of its content, in bytes, and how many files and folders.
        archive_bytes: size of the object.
        origin: ``run``, or the command that made it.
    """

    key: str
    number: int
    epoch: int
    run_id: str
    etag: str
    sha256: str
    size: int
    files: int
    archive_bytes: int
    saved_at: datetime
    origin: str = "run"

    def to_document(self) -> dict[str, Any]:
        """Return it as stored."""
        return dict(vars(self))

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> "StateVersion":
        """Return a stored one."""
        saved_at: datetime = value["saved_at"]
        return cls(
            key=str(value["key"]),
            number=int(value["number"]),
            epoch=int(value["epoch"]),
            run_id=str(value["run_id"]),
            etag=str(value["etag"]),
            sha256=str(value["sha256"]),
            size=int(value["size"]),
            files=int(value["files"]),
            archive_bytes=int(value["archive_bytes"]),
            saved_at=saved_at if saved_at.tzinfo else saved_at.replace(tzinfo=UTC),
            origin=str(value["origin"]),
        )


@dataclass(frozen=True)
class SavedState:
    """The state of one entity.

    Attributes:
        segment, epoch: of the last claim, or of the last save by a later owner of the segment; 0 before the first one.
        run_id: the run whose state may be saved; "" for none.
        number: of the newest version ever.
        versions: the kept ones, oldest first; the last one is current. None: nothing is saved.
    """

    segment: int = -1
    epoch: int = 0
    run_id: str = ""
    number: int = 0
    versions: Sequence[StateVersion] = ()

    @property
    def latest(self) -> StateVersion | None:
        """The current version; None: an empty state."""
        return self.versions[-1] if self.versions else None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "SavedState":
        """Return the one in an entity's *document*; an empty one when there is none."""
        value = document.get(FIELD)
        if not isinstance(value, Mapping):
            return cls()
        return cls(
            segment=int(value.get("segment", -1)),
            epoch=int(value.get("epoch", 0)),
            run_id=str(value.get("run_id", "")),
            number=int(value.get("number", 0)),
            versions=tuple(StateVersion.of(version) for version in value.get("versions") or ()),
        )

    def to_document(self) -> dict[str, Any]:
        """Return it as stored."""
        return {**vars(self), "versions": [version.to_document() for version in self.versions]}

    def may_save(self, run_id: str, epoch: int) -> bool:
        """Whether an owner of *epoch* may save the state of the run *run_id*."""
        return bool(run_id) and self.run_id == run_id and self.epoch <= epoch

    def adding(self, version: StateVersion, keep: int = KEPT_VERSIONS) -> tuple["SavedState", Sequence[StateVersion]]:
        """Return the state with *version* as the current one, and the versions that are no longer kept."""
        versions = (*self.versions, version)
        epoch = max(self.epoch, version.epoch)
        return replace(self, epoch=epoch, number=version.number, versions=versions[-keep:]), versions[:-keep]
