"""The running version of an entity: the last accepted one, stored in the document beside the newest one.

The contract's `config` and `custom` are always the newest version, whether or not it can run. The field `release`,
written by workers, contains what a worker needs while the newest version is not accepted::

    release: {current, previous, rejection, epoch}

*current* and *previous* are whole versions (`revision`, `config`, `custom`, `code_etag`, `window_seconds`), so that any
worker can start them. Events never change the field; the removal of the entity removes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from libs.core.store.entities import Entity

FIELD = "release"
ROLLBACK_FIELD = "rollback"
"""Requests a rollback, in `config` or at the top level of an event: true, or `{"window_seconds": number}`."""

_MAX_WINDOW_SECONDS = 3600.0
_YES = (True, 1, "true", "1")


class RejectionReason(StrEnum):
    """Why a version does not run.

    DEFINITION: a field is missing or wrong. UNHEALTHY: it ended within its health window.
    CODE_REPLACED: the code object of an earlier version now has other content. SECRET: its config refers to a secret
    that does not exist, or that its owner may not use. DATA_MISSING: there is no data set that it names. DATA: its list
    of data sets is malformed, or one of them is too large or damaged.
    """

    DEFINITION = "definition"
    LIMITS = "limits"
    RUNTIME = "runtime"
    CODE_MISSING = "code-missing"
    CODE_REPLACED = "code-replaced"
    ARCHIVE = "archive"
    ENTRYPOINT = "entrypoint"
    UNHEALTHY = "unhealthy"
    DATA_MISSING = "data-missing"
    DATA = "data"
    SECRET = "secret"  # noqa: S105 - a reason


@dataclass(frozen=True)
class Rejection:
    """The rejection of the version of *revision*. *detail* is for its owner."""

    revision: int
    reason: RejectionReason
    detail: str

    def to_document(self) -> dict[str, Any]:
        """Return it as stored, here and in a status."""
        return {"revision": self.revision, "reason": str(self.reason), "detail": self.detail}

    @classmethod
    def from_document(cls, value: object) -> "Rejection | None":
        """Return the rejection in a document; None without one."""
        if not isinstance(value, Mapping) or value.get("reason") not in set(RejectionReason):
            return None
        return cls(_whole(value.get("revision")), RejectionReason(value["reason"]), str(value.get("detail") or ""))


@dataclass(frozen=True)
class Version:
    """One version of an entity, with everything that is needed to run it.

    Attributes:
        code_etag: the version of the code object that it ran; "" when unknown.
        window_seconds: its health window, within which its end triggers a rollback; None without a requested
            rollback.
    """

    revision: int
    config: Mapping[str, Any]
    custom: Mapping[str, Any]
    code_etag: str = ""
    window_seconds: float | None = None

    @classmethod
    def of(cls, entity: Entity, code_etag: str, default_window_seconds: float) -> "Version":
        """Return the newest version of *entity*, with the code object's version *code_etag*."""
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
        """Return *entity* with this version as its newest one."""
        content = {"revision": self.revision, "config": self.config, "custom": self.custom}
        return Entity.of({**entity.document, **content})

    @property
    def name(self) -> str:
        """Its author's name of the version; may be ""."""
        return version_name(self.custom)

    def to_document(self) -> dict[str, Any]:
        """Return it as stored."""
        return {
            "revision": self.revision,
            "config": dict(self.config),
            "custom": dict(self.custom),
            "code_etag": self.code_etag,
            "window_seconds": self.window_seconds,
        }

    @classmethod
    def from_document(cls, value: object) -> "Version | None":
        """Return the version in a document; None without one."""
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
    """The accepted versions of an entity.

    Attributes:
        current: the version that was accepted last; it runs or starts unless a newer one is accepted.
        previous: the version before *current*, until *current* has started and its health window is over.
        rejection: of a version that was given up after its start; it is not tried again.
    """

    current: Version | None = None
    previous: Version | None = None
    rejection: Rejection | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Release":
        """Return the release in an entity's document; an empty one without it."""
        value = document.get(FIELD)
        if not isinstance(value, Mapping):
            return cls()
        return cls(
            Version.from_document(value.get("current")),
            Version.from_document(value.get("previous")),
            Rejection.from_document(value.get("rejection")),
        )

    def accepting(self, version: Version) -> "Release":
        """Accept *version*; the running version is kept as the previous one until the health window is over."""
        return Release(current=version, previous=self.current)

    def confirmed(self, code_etag: str) -> "Release":
        """Confirm the current version with the code object's version *code_etag*; a rollback is no longer possible."""
        current = replace(self.current, code_etag=code_etag) if self.current is not None else None
        return replace(self, current=current, previous=None)

    def reverted(self, rejection: Rejection | None) -> "Release":
        """Make the previous version current again; with *rejection* the given-up one is not tried again."""
        return Release(current=self.previous, rejection=rejection)

    def rejection_of(self, revision: int) -> Rejection | None:
        """Return why the version of *revision* was given up; None when it was not."""
        return self.rejection if self.rejection is not None and self.rejection.revision == revision else None

    def to_document(self, epoch: int) -> dict[str, Any]:
        """Return it as stored by the owner of *epoch*."""
        return {
            "current": self.current.to_document() if self.current is not None else None,
            "previous": self.previous.to_document() if self.previous is not None else None,
            "rejection": self.rejection.to_document() if self.rejection is not None else None,
            "epoch": epoch,
        }


def condition_for(entity: Entity, epoch: int) -> dict[str, Any]:
    """Return the condition on the document under which the owner of *epoch* may write the release of *entity*.

    The same document in the same segment, not one recreated under the id, and not yet written by a later owner.
    """
    # Epochs of different segments cannot be compared; a move removes the one of the former segment.
    unmoved = {"_id": entity.document["_id"], "segment_id": entity.document.get("segment_id")}
    return {**unmoved, f"{FIELD}.epoch": {"$not": {"$gt": epoch}}}


def effective(entity: Entity) -> Entity:
    """Return *entity* with the version that runs: the accepted one while the newest is rejected, else the newest."""
    release = Release.of(entity.document)
    rejection = Rejection.from_document(entity.status.get("rejection"))
    is_rejected = rejection is not None and rejection.revision == entity.revision
    if release.current is None or not (is_rejected or release.rejection_of(entity.revision)):
        return entity
    return release.current.entity_in(entity) if release.current.revision != entity.revision else entity


def version_name(custom: Mapping[str, Any]) -> str:
    """Return the version in `custom`; may be ""."""
    bot = custom.get("config")
    inner = bot.get("version") if isinstance(bot, Mapping) else None
    return str(custom.get("version") or inner or "")


def _window(value: object, default_seconds: float) -> float | None:
    """Return the health window that the field *value* requests; None without a request."""
    if isinstance(value, Mapping):
        seconds = value.get("window_seconds", default_seconds)
        usable = isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0
        return min(float(seconds), _MAX_WINDOW_SECONDS) if usable else default_seconds
    text = value.strip().lower() if isinstance(value, str) else value
    return default_seconds if isinstance(text, bool | int | float | str) and text in _YES else None


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0
