"""Ingest events into MongoDB: read, apply, and acknowledge only then.

Messages of different entities are processed in parallel, those of one entity in order. Messages that are ready at the
same time are applied together, so that under load one round trip to MongoDB serves many events. Correctness does not
depend on the order: the store reaches the same state in any order (:mod:`libs.core.store.history`).

Events that were lost with a deleted stream are applied from copies (:mod:`libs.core.events.copies`). They are
processed in the same way, but no server waits for their acknowledgement.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from prometheus_client import Counter, Gauge, Histogram

from libs.core.errors import Permanent, Retryable, RuntimeFault
from libs.core.events.connection import NatsConnection, NatsUnavailable
from libs.core.events.consumer import EventConsumer
from libs.core.events.copies import Copy, CopyReader
from libs.core.events.copy_order import CopyOrder
from libs.core.events.dead_letters import PUBLISHED_AT, DeadLetters
from libs.core.events.delivery import Received
from libs.core.events.jetstream import JetStream
from libs.core.events.lanes import Lanes
from libs.core.events.payload import PayloadRejected, Place, read_event
from libs.core.events.stream import ACK_WAIT_SECONDS, EVENT_STREAM, EVENT_SUBJECTS, EventStream
from libs.core.events.wakeups import WakeUps
from libs.core.http.health import Readiness
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.core.observability.tracing import OpenSpan, SpanKind, begin, span, trace_of
from libs.core.process.isolation import isolated, unexpected
from libs.core.process.service import ServiceDefinition
from libs.core.store.entities import EntityStore
from libs.core.store.failures import FailureStore
from libs.core.store.history import UNKNOWN_STREAM, EntityEvent, EventKind

log = get_logger(__name__)

EVENTS = Counter("runtime_events_total", "Events by outcome.", ["subject", "outcome"])
EVENT_SECONDS = Histogram(
    "runtime_event_seconds",
    "Time from publishing an event until MongoDB has it.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600),
)
IN_HAND = Gauge("runtime_events_in_hand", "Events received and not yet applied.")

_BATCH_EVENTS = 256
_BATCHES_AT_ONCE = 3
_STREAM_FIRST_SECONDS = 3.0
_FIRST_RETRY_SECONDS = 0.2
_LAST_RETRY_SECONDS = 3.0


@dataclass(slots=True, eq=False)
class _Work:
    """A message in hand: its event, or the reason why it has none."""

    delivery: Received
    span: OpenSpan
    event: EntityEvent | None
    rejected: PayloadRejected | None = None
    received_at: float = field(default_factory=time.monotonic)


class Ingestion:
    """Reads a service's events into its store, forever.

    Args:
        max_retries: number of permanent-looking failures after which an event becomes a dead letter. Transient
            failures (a database is down) are not counted.
        ack_wait_seconds: time without acknowledgement or progress after which an event goes to another worker.
        capacity: maximum number of events in hand.
        required: whether the process is not ready while NATS is connected but the stream is unusable.
        stream_name: overrides the contract's stream, for tests that share a server; so does *subjects*.
    """

    def __init__(
        self,
        service: ServiceDefinition,
        store: EntityStore,
        failures: FailureStore,
        connection: NatsConnection,
        wakeups: WakeUps,
        *,
        max_retries: int = 3,
        ack_wait_seconds: float = ACK_WAIT_SECONDS,
        capacity: int = 1024,
        readiness: Readiness | None = None,
        applied: Callable[[Sequence[EntityEvent]], Awaitable[object]] | None = None,
        required: bool = True,
        stream_name: str = EVENT_STREAM,
        subjects: Sequence[str] = EVENT_SUBJECTS,
        dead_letters: DeadLetters | None = None,
    ) -> None:
        self._service = service
        self._store = store
        self._failures = failures
        self._on_applied = applied
        self._wakeups = wakeups
        self._max_retries = max_retries
        self._ack_wait_seconds = ack_wait_seconds
        self._kinds = _kinds(service)
        jetstream = JetStream(connection)
        self._dead_letters = dead_letters or DeadLetters(jetstream)
        publishes = [service.completed_subject] if service.completed_subject else []
        stream = EventStream(
            jetstream,
            service.name,
            service.subjects,
            publishes,
            ack_wait_seconds=ack_wait_seconds,
            name=stream_name,
            subjects=subjects,
        )
        self._copies = CopyReader(
            connection, service.subjects, self._receive_copy, lambda: capacity - len(self._in_hand)
        )
        self._consumer = EventConsumer(
            connection,
            stream,
            self._receive,
            lambda: len(self._in_hand),
            self._copies,
            capacity=capacity,
            readiness=readiness,
            required=required,
        )
        self._lanes: Lanes[_Work] = Lanes()
        self._in_hand: set[_Work] = set()
        self._arrived = asyncio.Event()
        self._room = asyncio.Semaphore(_BATCHES_AT_ONCE)

    async def run(self) -> None:
        """Consume until cancelled. Events in hand are then redelivered, to another worker or to the next run."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._consumer.run(), name="consume-events")
            tasks.create_task(self._copies.run(), name="keep-copies-of-events")
            tasks.create_task(self._keep_alive(), name="keep-events-alive")
            tasks.create_task(self._dispatch(tasks), name="dispatch-events")

    def _receive(self, delivery: Received) -> None:
        self._put(self._read(delivery))

    def _receive_copy(self, copy: Copy, order: CopyOrder | None) -> None:
        work = self._read(copy)
        if work.event is not None and PUBLISHED_AT not in copy.headers:
            if order is not None:
                copy.stamp = order.stamped(work.event, copy.published_at).stamp
            work.event = replace(work.event, stamp=copy.stamp or work.event.stamp)
        self._put(work)

    def _put(self, work: _Work) -> None:
        self._in_hand.add(work)
        IN_HAND.set(len(self._in_hand))
        # An unreadable message belongs to no entity, so it needs no lane.
        self._lanes.put(work.event.id if work.event else f"\0{work.delivery.key}", work)
        self._arrived.set()

    def _read(self, delivery: Received) -> _Work:
        first_published_at = delivery.headers.get(PUBLISHED_AT, "")
        if first_published_at.isascii() and first_published_at.isdigit():
            place = Place(int(first_published_at), UNKNOWN_STREAM, 0)
        else:
            place = Place(delivery.published_at, delivery.stream_created_at, delivery.sequence)
        made = begin(
            f"process {delivery.subject}",
            parent=trace_of(delivery.headers),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "nats",
                "messaging.destination.name": delivery.subject,
                "messaging.nats.stream_sequence": delivery.sequence,
                "runtime.attempt": delivery.attempt,
            },
        )
        try:
            kind = self._kinds.get(delivery.subject)
            if kind is None:
                raise PayloadRejected(None, f"{self._service.name} does not read the subject {delivery.subject}")
            event = read_event(kind, delivery.data, delivery.headers, place)
        except PayloadRejected as error:
            return _Work(delivery, made, None, error)
        except Exception as error:  # noqa: BLE001 - of this message alone, which becomes a dead letter
            unexpected("read event", error, subject=delivery.subject, sequence=delivery.sequence)
            return _Work(
                delivery, made, None, PayloadRejected(None, f"internal error, {type(error).__name__}: {error}")
            )
        made.set(id=event.id)
        # The span of reading is the parent of what the entity's owner does because of the event.
        return _Work(delivery, made, replace(event, trace=made.headers) if made.is_own else event)

    async def _dispatch(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._lanes:
                await self._room.acquire()
                batch = self._lanes.take(_BATCH_EVENTS)
                if batch:
                    tasks.create_task(self._work(batch), name="apply-events")
                else:
                    self._room.release()

    async def _work(self, batch: Mapping[str, Sequence[_Work]]) -> None:
        works = [work for lane in batch.values() for work in lane]
        try:
            for work in works:
                if work.rejected is not None:
                    await self._dead_letter(work, str(work.rejected), work.delivery.attempt)
            await self._apply([work for work in works if work.event is not None])
        except Exception as error:  # noqa: BLE001 - they come again by themselves
            unexpected("apply events", error, number=len(works))
            EVENTS.labels(works[0].delivery.subject, "error").inc(len(works))
        finally:
            for work in works:
                work.span.end()
            self._in_hand.difference_update(works)
            IN_HAND.set(len(self._in_hand))
            self._lanes.done(batch)
            self._room.release()
            self._arrived.set()
            self._consumer.freed()

    async def _apply(self, works: Sequence[_Work]) -> None:
        if not works:
            return
        with _applying(works):
            await self._apply_together(works)

    async def _apply_together(self, works: Sequence[_Work]) -> None:
        try:
            with observe("events", "apply"):
                applied = await self._store.apply([work.event for work in works if work.event is not None])
        except Retryable as error:
            await self._again(works, error)
        except Exception as error:  # noqa: BLE001 - sorted out below: given up at once, or after some retries
            if len(works) > 1:
                for work in works:  # one of them is the cause; the others must still be applied
                    await self._apply([work])
            else:
                await self._failed(works[0], error)
        else:
            await self._wakeups.segments_changed(applied.segments)
            if applied.occupancy_changed:
                await self._wakeups.partitions_changed()
            if self._on_applied is not None:
                with isolated("record events", passing=()):
                    await self._on_applied([w.event for w in works if w.event and w.event.id in applied.changed_ids])
            for work in works:
                changed = work.event is not None and work.event.id in applied.changed_ids
                await self._acknowledge(work, "applied", changed=changed)

    async def _acknowledge(self, work: _Work, outcome: str, *, changed: bool = True) -> None:
        if not isinstance(work.delivery, Copy):
            EVENTS.labels(work.delivery.subject, outcome).inc()
            EVENT_SECONDS.observe(max(0.0, time.time() - work.delivery.published_at / 1e9))
        elif changed:
            EVENTS.labels(work.delivery.subject, "recovered" if outcome == "applied" else outcome).inc()
        work.span.end(outcome)
        try:
            await work.delivery.ack()
        except NatsUnavailable as error:
            log.debug("an event was not acknowledged; it is redelivered", reason=str(error))

    async def _again(self, works: Sequence[_Work], error: Exception) -> None:
        """Request redelivery with a delay that grows with each attempt."""
        log.warning("events are retried later", number=len(works), reason=str(error))
        for work in works:
            EVENTS.labels(work.delivery.subject, "retried").inc()
            work.span.failed(error)
            work.span.end("retried")
            try:
                await work.delivery.nak(_retry_seconds(work.delivery.attempt))
            except NatsUnavailable:
                return  # without an acknowledgement they are redelivered

    async def _failed(self, work: _Work, error: Exception) -> None:
        if isinstance(error, Permanent):
            await self._dead_letter(work, str(error), work.delivery.attempt)
            return
        delivery = work.delivery
        log.error("handling an event failed", subject=delivery.subject, sequence=delivery.sequence, exc_info=error)
        reason = f"{type(error).__name__}: {error}"
        message = f"{self._service.name}:{delivery.key}"
        try:
            failures = await self._failures.count(message, reason)
        except Retryable as unavailable:
            await self._again([work], unavailable)
            return
        if failures >= self._max_retries:
            await self._dead_letter(work, reason, failures)
        else:
            await self._again([work], error)

    async def _dead_letter(self, work: _Work, reason: str, attempts: int) -> None:
        work.span.failed(work.rejected or "dead-lettered")
        try:
            if isinstance(work.delivery, Copy) and not await self._is_missing(work.delivery):
                return
            await self._dead_letters.dead_letter(self._service.name, work.delivery, reason, attempts)
        except RuntimeFault as error:
            await self._again([work], error)
        else:
            await self._acknowledge(work, "dead-lettered")

    async def _is_missing(self, copy: Copy) -> bool:
        """Whether no worker has made a dead letter of a failed copy's event, which happens if it was in the stream.

        While that is unknown, the copy is retried later.
        """
        if copy.age_seconds < _STREAM_FIRST_SECONDS:
            copy.come_again(_STREAM_FIRST_SECONDS - copy.age_seconds)
            return False
        return not await self._dead_letters.contains(self._service.name, copy)

    async def _keep_alive(self) -> None:
        """Extend the acknowledgement timeout of messages that take long or wait for such a message."""
        while True:
            await asyncio.sleep(self._ack_wait_seconds / 3)
            old = time.monotonic() - self._ack_wait_seconds / 4
            try:
                with isolated("keep events alive"):
                    for work in list(self._in_hand):
                        if work.received_at < old:
                            await work.delivery.in_progress()
            except NatsUnavailable as error:
                log.debug("events in hand may be delivered again", reason=str(error))


def _applying(works: Sequence[_Work]) -> AbstractContextManager[OpenSpan]:
    """Return the span of events that are written together: the child of the first, with links to the others."""
    first = works[0].span
    links = [work.span.headers for work in works[1:]] if first.is_own else ()
    return span("apply events", parent=first.headers, links=links, attributes={"runtime.events": len(works)})


def _kinds(service: ServiceDefinition) -> dict[str, EventKind]:
    subjects = {
        service.created_subject: EventKind.CREATED,
        service.updated_subject: EventKind.UPDATED,
        service.deleted_subject: EventKind.DELETED,
    }
    return {subject: kind for subject, kind in subjects.items() if subject is not None}


def _retry_seconds(attempt: int) -> float:
    """Return the delay after the *attempt*-th delivery failed."""
    longest: float = min(_LAST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(attempt - 1, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - only spreads the load
