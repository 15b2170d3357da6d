"""Sends the queue of notifications: at least once, in order for each entity and receiver, for a day."""

import asyncio
import json
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from libs.core.aio.wake import Wake
from libs.core.errors import Retryable
from libs.core.observability.log import get_logger
from libs.core.process.isolation import isolated, repeat
from libs.core.secrets.errors import SecretRefused
from libs.core.secrets.resolver import SecretResolver
from libs.notifications.destination import DestinationRefused, NoRules, Rules, Url
from libs.notifications.metrics import NOTIFICATIONS, WAITING
from libs.notifications.post import post
from libs.notifications.signature import EVENT_HEADER, ID_HEADER, SIGNATURE_HEADER, TIME_HEADER, signature_of
from libs.notifications.store import GIVEN_UP_AFTER, NotificationStore, Queued

log = get_logger(__name__)

# Less than a claim lasts.
_LIMIT_SECONDS = 10.0
_FIRST_SECONDS = 5.0
_LONGEST_SECONDS = 900.0
_POLL_SECONDS = 30.0
_LEAST_PAUSE_SECONDS = 0.2
_JSON = "application/json"


@dataclass(frozen=True)
class Operator:
    """The operator's webhook; *url* None: none."""

    url: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)


class Sender:
    """Sends what is due. Several processes may do so at once.

    Set :attr:`wake` after an append; otherwise the queue is read every half minute.

    Args:
        resolver: of the secrets with which the webhooks of bots' owners are signed.
        rules: for these webhooks.
        version: of the runtime, for the header User-Agent.
        pause: seconds before the attempt after so many failed ones.
    """

    def __init__(
        self,
        store: NotificationStore,
        operator: Operator,
        *,
        resolver: SecretResolver,
        rules: Rules,
        version: str = "",
        pause: Callable[[int], float] | None = None,
        limit_seconds: float = _LIMIT_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._store = store
        self._operator = operator
        self._resolver = resolver
        self._rules = rules
        self._user_agent = f"the0-runtime/{version or '0'}"
        self._pause = pause or pause_seconds
        self._limit_seconds = limit_seconds
        self._tls = tls or ssl.create_default_context()
        self.wake = Wake()

    async def run(self) -> None:
        """Send forever."""
        await repeat("send notifications", self.send_due, _POLL_SECONDS, wake=self.wake)

    async def send_due(self) -> float:
        """Send what is due now; return the seconds until the next look.

        Raises:
            StoreUnavailable: the queue cannot be read.
        """
        claimed = await self._store.claim()
        await asyncio.gather(*(self._send(queued) for queued in claimed.due))
        if claimed.due:
            WAITING.set(await self._store.waiting())
            return _LEAST_PAUSE_SECONDS  # the next ones of their lanes
        WAITING.set(0 if claimed.next_seconds is None else await self._store.waiting())
        # So that the workers of a large service do not look at the same time.
        longest = _POLL_SECONDS * random.uniform(0.7, 1.0)  # noqa: S311 - only spreads the load
        return longest if claimed.next_seconds is None else min(longest, claimed.next_seconds + _LEAST_PAUSE_SECONDS)

    async def _send(self, queued: Queued) -> None:
        try:
            with isolated("send notification"):
                await self._attempt(queued)
        except Retryable as error:
            # Its claim expires, and it is sent again under the same id.
            log.warning("notification not settled", id=queued.entity_id, kind=queued.event, reason=str(error))

    async def _attempt(self, queued: Queued) -> None:
        try:
            await self._post(queued)
        except (DestinationRefused, SecretRefused) as error:
            log.warning("notification refused", id=queued.entity_id, kind=queued.event, reason=str(error))
            await self._over(queued, "refused")
        except Retryable as error:
            await self._failed(queued, error)
        else:
            NOTIFICATIONS.labels(queued.event, queued.webhook.name, "sent").inc()
            await self._store.sent(queued)

    async def _post(self, queued: Queued) -> None:
        webhook, rules = queued.webhook, self._rules
        secret: str | None
        if webhook.is_own:
            url = Url.of(webhook.url)
            secret = await self._secret_of(queued)
        else:
            if self._operator.url is None:
                raise DestinationRefused("", "NOTIFY_URL is no longer set")
            url, secret, rules = Url.of(self._operator.url), self._operator.secret, NoRules()
        content = {"id": queued.id, **queued.body, "count": queued.count, "queued_at": queued.created_at.isoformat()}
        body = json.dumps(content, ensure_ascii=False, default=str).encode("utf-8", "replace")
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": _JSON,
            "User-Agent": self._user_agent,
            EVENT_HEADER: queued.event,
            ID_HEADER: queued.id,
            TIME_HEADER: timestamp,
        }
        if secret is not None:
            headers[SIGNATURE_HEADER] = signature_of(secret, timestamp, body)
        await post(url, rules, headers, body, tls=self._tls, limit_seconds=self._limit_seconds)

    async def _secret_of(self, queued: Queued) -> str | None:
        if queued.webhook.secret is None:
            return None
        config = {"secret": queued.webhook.secret}
        resolved = await asyncio.to_thread(self._resolver.resolve, config, queued.webhook.owner)
        return str(resolved.config["secret"])

    async def _failed(self, queued: Queued, error: Exception) -> None:
        NOTIFICATIONS.labels(queued.event, queued.webhook.name, "failed").inc()
        if datetime.now(UTC) - queued.created_at >= GIVEN_UP_AFTER:
            log.warning("notification given up", id=queued.entity_id, kind=queued.event, reason=str(error))
            await self._over(queued, "given-up")
            return
        seconds = self._pause(queued.attempts)
        log.info("notification not sent", id=queued.entity_id, kind=queued.event, reason=str(error), again_in=seconds)
        await self._store.failed(queued, seconds)

    async def _over(self, queued: Queued, outcome: str) -> None:
        NOTIFICATIONS.labels(queued.event, queued.webhook.name, outcome).inc()
        await self._store.given_up(queued)


def pause_seconds(attempts: int) -> float:
    """Return the seconds before the attempt that follows *attempts* failed ones and one more."""
    longest = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** min(attempts, 20))
    return float(longest * random.uniform(0.5, 1.0))  # noqa: S311 - only spreads the load
