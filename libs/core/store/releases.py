"""Which version of an entity runs: the last one that was accepted, kept in the document beside the newest one.

The contract's `config` and `custom` are always the newest version, whether or not it can run. The field `release`,
which workers write, holds what a worker needs while the newest version is not accepted::

    release: {current, previous, rejection, epoch}

*current* and *previous* are whole versions (`revision`, `config`, `custom`, `code_etag`, `window_seconds`), so that any
worker can start them. An event never changes the field; the removal of the entity removes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from libs.core.store.entities import CodeLocation, Entity

FIELD = "release"
ROLLBACK_FIELD = "rollback"
"""Asks for a rollback, in `config` or at the top level of an event: true, or `{"window_seconds": number}`."""

_MAX_WINDOW_SECONDS = 3600.0
_YES = (True, 1, "true", "1")


class RejectionReason(StrEnum):
    """Why a version does not run.

    DEFINITION: a field is missing or wrong. UNHEALTHY: it started, and ended within its health window.
    CODE_REPLACED: the object that an earlier version ran has other content now.
    """

    DEFINITION = "definition"
    LIMITS = "limits"
    RUNTIME = "runtime"
    CODE_MISSING = "code-missing"
    CODE_REPLACED = "code-replaced"
    ARCHIVE = "archive"
    ENTRYPOINT = "entrypoint"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True)
class Rejection:
    """That the version of *revision* does not run. *detail* is for its owner."""

    revision: int
    reason: RejectionReason
    detail: str

    def to_document(self) -> dict[str, Any]:
        """As it is stored, here and in a status."""
        return {"revision": self.revision, "reason": str(self.reason), "detail": self.detail}

    @classmethod
    def from_document(cls, value: object) -> "Rejection | None":
        """The rejection in a document; None when there is none."""
        if not isinstance(value, Mapping) or value.get("reason") not in set(RejectionReason):
            return None
        return cls(_whole(value.get("revision")), RejectionReason(value["reason"]), str(value.get("detail") or ""))


@dataclass(frozen=True)
class Version:
    """One version of an entity, with all that is needed to run it.

    Attributes:
        code_etag: the version of the code object that it ran; "" when that is not known.
        window_seconds: its health window, in which its end brings back the version before; None when its owner has
            not asked for that.
    """

    revision: int
    config: Mapping[str, Any]
    custom: Mapping[str, Any]
    code_etag: str = ""
    window_seconds: float | None = None

    @classmethod
    def of(cls, entity: Entity, code_etag: str, default_window_seconds: float) -> "Version":
        """The newest version of *entity*, which runs the code object's version *code_etag*."""
        document = entity.document
        return cls(
            entity.revision,
            document.get("config") or {},
            document.get("custom") or {},
            code_etag,
            _window(document.get(ROLLBACK_FIELD), default_window_seconds)
            or _window(entity.config.get(ROLLBACK_FIELD), default_window_seconds),
        )

    def entity_in(self, entity: Entity) -> Entity:
        """*entity* as it would be if this were its newest version."""
        content = {"revision": self.revision, "config": self.config, "custom": self.custom}
        return Entity.of({**entity.document, **content})

    @property
    def name(self) -> str:
        """The version as its author calls it; may be ""."""
        return version_name(self.custom)

    def to_document(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "revision": self.revision,
            "config": dict(self.config),
            "custom": dict(self.custom),
            "code_etag": self.code_etag,
            "window_seconds": self.window_seconds,
        }

    @classmethod
    def from_document(cls, value: object) -> "Version | None":
        """The version in a document; None when there is none."""
        if not isinstance(value, Mapping):
            return None
        config, custom = value.get("config"), value.get("custom")
        if not isinstance(config, Mapping) or not isinstance(custom, Mapping):
            return None
        window = value.get("window_seconds")
        return cls(
            _whole(value.get("revision")),
            config,
            custom,
            str(value.get("code_etag") or ""),
            float(window) if isinstance(window, int | float) else None,
        )


@dataclass(frozen=True)
class Release:
    """What is known of an entity's accepted versions.

    Attributes:
        current: the version that was accepted last: what runs, or is to run, unless a newer one is accepted.
        previous: the version before *current*, until *current* has started and its health window is over.
        rejection: of a version that was given up after it had started; it is not tried again.
    """

    current: Version | None = None
    previous: Version | None = None
    rejection: Rejection | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Release":
        """The release in an entity's document; an empty one when there is none."""
        value = document.get(FIELD)
        if not isinstance(value, Mapping):
            return cls()
        return cls(
            Version.from_document(value.get("current")),
            Version.from_document(value.get("previous")),
            Rejection.from_document(value.get("rejection")),
        )

    def accepting(self, version: Version) -> "Release":
        """*version* is to replace what runs, which is kept until the health window is over."""
        return Release(current=version, previous=self.current)

    def confirmed(self, code_etag: str) -> "Release":
        """The current version runs, with the code object's version *code_etag*, and nothing brings back an earlier."""
        current = replace(self.current, code_etag=code_etag) if self.current is not None else None
        return replace(self, current=current, previous=None)

    def reverted(self, rejection: Rejection | None) -> "Release":
        """The version before is current again; with *rejection* the one that was is not tried again."""
        return Release(current=self.previous, rejection=rejection)

    def rejection_of(self, revision: int) -> Rejection | None:
        """Why the version of *revision* was given up; None when it was not."""
        return self.rejection if self.rejection is not None and self.rejection.revision == revision else None

    def to_document(self, epoch: int) -> dict[str, Any]:
        """As it is stored by the owner of *epoch*."""
        return {
            "current": self.current.to_document() if self.current is not None else None,
            "previous": self.previous.to_document() if self.previous is not None else None,
            "rejection": self.rejection.to_document() if self.rejection is not None else None,
            "epoch": epoch,
        }


def condition_for(entity: Entity, epoch: int) -> dict[str, Any]:
    """What the document must be for the owner of *epoch* to write the release of *entity*.

    The same document, not one that was made anew under the id; and no later owner has written it.
    """
    return {"_id": entity.document["_id"], f"{FIELD}.epoch": {"$not": {"$gt": epoch}}}


def effective(entity: Entity) -> Entity:
    """*entity* with the version that runs: the accepted one while the newest is rejected, else the newest."""
    release = Release.of(entity.document)
    rejection = Rejection.from_document(entity.status.get("rejection"))
    is_rejected = rejection is not None and rejection.revision == entity.revision
    if release.current is None or not (is_rejected or release.rejection_of(entity.revision)):
        return entity
    return release.current.entity_in(entity) if release.current.revision != entity.revision else entity


def code_locations(entity: Entity) -> set[CodeLocation]:
    """Every code object that a worker may still start for *entity*: not to be removed from the storage."""
    release = Release.of(entity.document)
    versions = [version.entity_in(entity) for version in (release.current, release.previous) if version is not None]
    return {code for one in (entity, *versions) if (code := one.code) is not None}


def version_name(custom: Mapping[str, Any]) -> str:
    """The version that `custom` names; may be ""."""
    bot = custom.get("config")
    inner = bot.get("version") if isinstance(bot, Mapping) else None
    return str(custom.get("version") or inner or "")


def _window(value: object, default_seconds: float) -> float | None:
    """The health window that the field *value* asks for; None when it asks for none."""
    if isinstance(value, Mapping):
        seconds = value.get("window_seconds", default_seconds)
        usable = isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0
        return min(float(seconds), _MAX_WINDOW_SECONDS) if usable else default_seconds
    text = value.strip().lower() if isinstance(value, str) else value
    return default_seconds if isinstance(text, bool | int | float | str) and text in _YES else None


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0
