"""The events of notifications, and the requests for them in a config. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from libs.core.config.notify_settings import EVENT_NAMES
from libs.core.errors import UserError
from libs.core.secrets.config_masks import MASK, masked
from libs.core.secrets.references import Kind
from libs.core.secrets.withholding import literal_secrets
from libs.core.store.entities import Entity
from libs.notifications.destination import DestinationRefused, Url

FIELD = "notify"
"""In `config`: `{"url", "events", "secret"}`."""

_LINES = 20
_LINE_CHARACTERS = 500
_TEXT_CHARACTERS = 2000
_LEAST_SECRET_CHARACTERS = 4


class Event(StrEnum):
    """The events."""

    CRASHED = "bot.crashed"
    BACKING_OFF = "bot.backing-off"
    HELD = "bot.held"
    RECOVERED = "bot.recovered"
    MISSED = "schedule.missed"
    DONE = "backtest.done"


COALESCED = frozenset({Event.CRASHED})
"""Events of which several are joined in one notification, with the latest facts and their number."""


@dataclass(frozen=True)
class Notice:
    """One event of one entity.

    Attributes:
        entity: its config has the request and the secrets that are masked in texts.
        key: identifies it: a repetition has the same key.
        facts: what the event says. Texts in it are limited, and have no secrets of the config.
    """

    event: Event
    entity: Entity = field(repr=False)
    key: str
    at: datetime
    facts: Mapping[str, Any] = field(default_factory=dict)

    def body(self, service: str, owner: str) -> dict[str, Any]:
        """Return what is sent, without id and count."""
        texts = {str(value) for value in literal_secrets(self.entity.config)}
        secrets = sorted((text for text in texts if len(text) >= _LEAST_SECRET_CHARACTERS), key=len, reverse=True)
        facts = {name: _harmless(value, secrets) for name, value in self.facts.items()}
        return {
            "event": str(self.event),
            "at": self.at.isoformat(),
            "service": service,
            "entity_id": self.entity.id,
            "owner": owner,
            **facts,
        }


class NoticeQueue(Protocol):
    """Queues notifications."""

    async def put(self, notice: Notice) -> None:
        """Queue *notice*. May be repeated. Raises Retryable: repeat it."""


class RequestInvalid(UserError):
    """`config.notify` is malformed; its owner must correct it."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"config.{FIELD} {reason}")


@dataclass(frozen=True)
class Request:
    """The webhook that a config requests. *secret* is a reference; None: unsigned."""

    url: str = field(repr=False)
    secret: Mapping[str, Any] | None = field(default=None, repr=False)
    events: Sequence[str] = EVENT_NAMES


def request_in(config: Mapping[str, Any]) -> Request | None:
    """Return the request in *config*; None without one.

    Raises:
        RequestInvalid: it is malformed.
    """
    value = config.get(FIELD)
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise RequestInvalid('must be an object: {"url": …, "events": […], "secret": {"$secret": NAME}}')
    try:
        url = str(Url.of(value.get("url")))
    except DestinationRefused as error:
        raise RequestInvalid(f"has an invalid url: {error.reason}") from error
    events = value.get("events")
    if events is None:
        events = EVENT_NAMES
    if not isinstance(events, list | tuple) or not all(
        isinstance(name, str) and name in EVENT_NAMES for name in events
    ):
        raise RequestInvalid(f"has events other than {', '.join(EVENT_NAMES)}")
    secret = value.get("secret")
    if secret is not None and not (isinstance(secret, Mapping) and any(kind in secret for kind in Kind)):
        # The queue of notifications stores the reference, never a key.
        raise RequestInvalid('must have its secret as a reference: {"$secret": NAME} or {"$sealed": TEXT}')
    return Request(url, secret, tuple(events))


def id_of(notice: Notice, target: str) -> str:
    """Return the id of a notification: the same for a repetition of the event."""
    text = f"{target}\0{notice.event}\0{notice.entity.id}\0{notice.key}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _harmless(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
        return str(masked(value))[:_TEXT_CHARACTERS].encode("utf-8", "replace").decode()
    if isinstance(value, list | tuple):
        return [_harmless(one, secrets)[:_LINE_CHARACTERS] for one in value[-_LINES:] if isinstance(one, str)]
    return value.isoformat() if isinstance(value, datetime) else value
