"""Settings of notifications by webhooks."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from libs.core.config.settings_loader import Group, Named, Seconds

EVENT_NAMES = (
    "bot.crashed",
    "bot.backing-off",
    "bot.held",
    "bot.recovered",
    "schedule.missed",
    "backtest.done",
)


def _url(url: SecretStr | None) -> SecretStr | None:
    if url is not None and not re.fullmatch(r"https?://[\x21-\x7e]+", url.get_secret_value()):
        raise ValueError("it is no http:// or https:// URL")
    return url


def _events(value: object) -> object:
    if not isinstance(value, str):
        return value
    names = tuple(part.strip() for part in value.split(",") if part.strip())
    for name in names:
        if name not in EVENT_NAMES:
            raise ValueError(f"{name!r} is none of {', '.join(EVENT_NAMES)}")
    return names


class NotifySettings(Group):
    """Webhooks that are notified of crashes, holds and results."""

    url: Annotated[
        SecretStr | None,
        Named("NOTIFY_URL", file="NOTIFY_URL_FILE", allowed="http:// or https:// and the rest of a URL"),
        Field(description="webhook that gets the notifications of all entities of the service; unset: none"),
        AfterValidator(_url),
    ] = None
    secret: Annotated[
        SecretStr | None,
        Named("NOTIFY_SECRET", file="NOTIFY_SECRET_FILE"),
        Field(min_length=8, description="key with which the notifications to NOTIFY_URL are signed; unset: unsigned"),
    ] = None
    events: Annotated[
        tuple[str, ...],
        Named("NOTIFY_EVENTS", allowed="names of events with commas between", default_text="all"),
        Field(description="events that NOTIFY_URL gets"),
        BeforeValidator(_events),
    ] = EVENT_NAMES
    own_urls: Annotated[
        bool,
        Named("NOTIFY_OWN_URLS"),
        Field(description="whether the webhooks in config.notify get the notifications of their entities"),
    ] = True
    coalesce_seconds: Annotated[
        Seconds,
        Named("NOTIFY_COALESCE_SECONDS", unit="seconds"),
        Field(ge=0, le=86_400, description="time in which further crashes of a bot are sent in one notification"),
    ] = 300.0
