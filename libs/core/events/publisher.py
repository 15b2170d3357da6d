"""Publish the events of the outbox: at least once, in order for each entity, until the stream has acknowledged them.

A JetStream publish reaches the stream and the core subscribers of the subject.
"""

import asyncio
import time

from prometheus_client import Counter, Gauge

from libs.core.aio.backoff import Backoff
from libs.core.aio.coalescing import coalesced
from libs.core.aio.wake import Wake
from libs.core.errors import Permanent, Retryable, RuntimeFault
from libs.core.events.connection import NatsConnection
from libs.core.events.jetstream import MESSAGE_ID, JetStream
from libs.core.observability.log import get_logger
from libs.core.observability.tracing import SpanKind, span, trace_headers
from libs.core.process.isolation import unexpected
from libs.core.store.outbox import CLAIM_LIMIT, Outbox, OutgoingEvent

log = get_logger(__name__)

PUBLISHED = Counter("runtime_events_published_total", "Events published, by outcome.", ["subject", "outcome"])
WAITING = Gauge("runtime_outbox_events", "Events that wait to be published, as last read.")

_POLL_SECONDS = 5.0
_COUNT_SECONDS = 1.0
_PUBLISH_SECONDS = 3.0


class OutboxPublisher:
    """Publishes the outbox whenever NATS is connected. Several processes may do so at once.

    Set :attr:`wake` after an append; otherwise the outbox is polled every *interval_seconds*.
    """

    def __init__(self, outbox: Outbox, connection: NatsConnection, *, interval_seconds: float = _POLL_SECONDS) -> None:
        self._outbox = outbox
        self._connection = connection
        self._jetstream = JetStream(connection)
        self._interval_seconds = interval_seconds
        self._counted_at = -_COUNT_SECONDS
        self.wake = Wake()

    async def run(self) -> None:
        """Publish forever."""
        backoff = Backoff(0.2, self._interval_seconds)
        while True:
            await self._connection.wait_connected()
            try:
                clean = await self.drain()
            except Retryable as error:
                log.warning("the outbox cannot be published now", reason=str(error))
                clean = False
            except Exception as error:  # noqa: BLE001 - the events wait, and are tried again
                unexpected("publish events", error)
                clean = False
            if clean:
                backoff.reset()
                await self.wake.wait_at_most(coalesced(self._interval_seconds))
            else:
                await asyncio.sleep(backoff.next_seconds())

    async def publish(self, entity_id: str, subject: str, data: bytes, *, event_id: str) -> None:
        """Publish an event now; if that fails, append it to the outbox behind the entity's other events.

        For an event that another process can derive again from a record until this has returned; it is then published
        again under the same id. Only the entity's owner may call it, for one event after another.

        Raises:
            StoreUnavailable: published, in the outbox, or neither; repeat the call.
        """
        event = OutgoingEvent(event_id, entity_id, subject, data, trace_headers())
        if self._connection.connected and not await self._outbox.waits(entity_id) and await self._sent(event):
            return
        await self._outbox.append(entity_id, subject, data, headers=event.headers, event_id=event_id)
        self.wake.set()

    async def drain(self) -> bool:
        """Publish until nothing is left that this process may publish. Return False when some events failed.

        Raises:
            StoreUnavailable: the outbox cannot be read.
        """
        failed = 0
        while events := await self._outbox.claim():
            outcomes = await asyncio.gather(*(self._publish(event) for event in events))
            failed = outcomes.count(False)
            # An append meanwhile wakes the publisher again.
            if failed or (len(events) < CLAIM_LIMIT and all(event.alone for event in events)):
                break
        await self._count(now=failed > 0)
        return failed == 0

    async def _count(self, *, now: bool) -> None:
        """Update the metric, but not after each of many events, unless some could not be published."""
        if now or time.monotonic() - self._counted_at >= _COUNT_SECONDS:
            WAITING.set(await self._outbox.count())
            self._counted_at = time.monotonic()

    async def _publish(self, event: OutgoingEvent) -> bool:
        """Publish one event of the outbox and remove it; return False when it stays."""
        left_seconds = self._outbox.claim_seconds - (time.monotonic() - event.claimed_monotonic)
        if left_seconds < 2 * _PUBLISH_SECONDS:
            return False  # delayed: another process may claim it soon
        if not await self._sent(event):
            await self._outbox.release(event.id)
            return False
        await self._outbox.remove(event.id)
        return True

    async def _sent(self, event: OutgoingEvent) -> bool:
        """Publish it; return whether the stream has acknowledged it."""
        try:
            with span(
                f"publish {event.subject}",
                parent=event.headers,
                kind=SpanKind.PRODUCER,
                attributes={
                    "messaging.system": "nats",
                    "messaging.destination.name": event.subject,
                    "runtime.id": event.entity_id,
                },
            ):
                headers = {**event.headers, **trace_headers(), MESSAGE_ID: event.id}
                await self._jetstream.publish(event.subject, event.data, headers, timeout_seconds=_PUBLISH_SECONDS)
        except RuntimeFault as error:
            PUBLISHED.labels(event.subject, "error").inc()
            write = log.error if isinstance(error, Permanent) else log.warning
            write(
                "an event was not published; it is retried", subject=event.subject, event_id=event.id, reason=str(error)
            )
            return False
        PUBLISHED.labels(event.subject, "ok").inc()
        return True
