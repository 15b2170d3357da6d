"""The event stream and a service's durable consumer: found, or created when missing.

The platform API deletes and recreates the stream whenever it starts. So a stream that vanished while this process ran
gets some time to return before it is created: its configuration could differ from the API's, whose start would fail.
A stream that exists is never changed.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from libs.core.events.jetstream import JetStream, JetStreamRefused, StreamExists, StreamMissing, StreamState
from libs.core.observability.log import get_logger

log = get_logger(__name__)

EVENT_STREAM = "THE0_EVENTS"
EVENT_SUBJECTS = (
    "custom-bot.submitted",
    "custom-bot.approved",
    "custom-bot.declined",
    "custom-bot.awaiting-human-review",
    "custom-bot.analysis-failed",
    "the0.bot.created",
    "the0.bot.updated",
    "the0.bot.deleted",
    "the0.bot-schedule.created",
    "the0.bot-schedule.updated",
    "the0.bot-schedule.deleted",
    "the0.backtest.created",
    "the0.backtest.completed",
)
DAY_SECONDS = 86_400
ACK_WAIT_SECONDS = 6.0
"""Time without acknowledgement or progress after which a message goes to another worker."""

_GRACE_AT_START_SECONDS = 0.5
_GRACE_AFTER_LOSS_SECONDS = 2.0
_POLL_SECONDS = 0.1
_MAX_ACK_PENDING = 10_000
_MAX_WAITING = 16_384


@dataclass(frozen=True, slots=True)
class Binding:
    """A consumer on one incarnation of the stream, and the subjects that this stream lacks.

    Not `readable`, and without a consumer, if it lacks all subjects that the service reads.
    """

    stream: StreamState
    consumer: str
    missing_subjects: tuple[str, ...]
    readable: bool


class EventStream:
    """Finds or creates the stream and the consumer of *service*.

    Args:
        reads: the subjects that the service consumes.
        publishes: further subjects that must be in the stream.
        ack_wait_seconds: time without acknowledgement or progress after which a message goes to another worker.
        name: overrides the contract's name, for tests that share a server.
    """

    def __init__(
        self,
        jetstream: JetStream,
        service: str,
        reads: Sequence[str],
        publishes: Sequence[str] = (),
        *,
        ack_wait_seconds: float = ACK_WAIT_SECONDS,
        name: str = EVENT_STREAM,
        subjects: Sequence[str] = EVENT_SUBJECTS,
    ) -> None:
        self._jetstream = jetstream
        self._service = service
        self._reads = tuple(reads)
        self._publishes = tuple(publishes)
        self._subjects = tuple(subjects)
        self._ack_wait_seconds = ack_wait_seconds
        self._seen = False
        self._changed = asyncio.Event()
        self.name = name
        self.advisories = f"$JS.EVENT.ADVISORY.STREAM.*.{name}"
        """The subject on which the server announces that the stream was created, changed or deleted."""

    def changed(self) -> None:
        """Note that the stream may have been created, changed or deleted, so that it is checked now."""
        self._changed.set()

    async def wait_changed(self, at_most_seconds: float) -> None:
        """Return after the next change of the stream, or after *at_most_seconds*."""
        try:
            async with asyncio.timeout(at_most_seconds):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()

    async def bind(self) -> Binding:
        """Return the service's consumer on the current stream; both are created if missing.

        The consumer's name contains the stream's creation time. Acknowledgements and pull requests name the consumer,
        so those meant for an earlier stream cannot affect a message of this one.

        Raises:
            NatsUnavailable: try again.
            JetStreamRefused: the server rejects it, for instance for lack of space; an operator must act.
        """
        while True:
            stream = await self._find_or_make()
            missing = tuple(s for s in (*self._reads, *self._publishes) if not stream.covers(s))
            consumer = f"{self._service}-{stream.created_at:x}"
            reads = [subject for subject in self._reads if subject not in missing]
            try:
                if reads:
                    await self._put_consumer(consumer, reads)
                after = await self._jetstream.stream(self.name)
            except StreamMissing:
                continue
            if after.created_at == stream.created_at:
                self._seen = True
                return Binding(stream, consumer, missing, bool(reads))
            # The stream was recreated meanwhile, and the consumer with the wrong name is in the new one.
            await self._drop_consumer(consumer)

    async def state(self) -> StreamState | None:
        """Return the stream's state, or None when it does not exist."""
        try:
            return await self._jetstream.stream(self.name)
        except StreamMissing:
            return None

    async def _find_or_make(self) -> StreamState:
        patience = _GRACE_AFTER_LOSS_SECONDS if self._seen else _GRACE_AT_START_SECONDS
        deadline = time.monotonic() + patience
        while True:
            stream = await self.state()
            if stream is not None:
                return stream
            if time.monotonic() >= deadline:
                await self._make()
            else:
                await self.wait_changed(_POLL_SECONDS)

    async def _make(self) -> None:
        try:
            await self._jetstream.create_stream(
                self.name,
                subjects=list(self._subjects),
                storage="file",
                retention="limits",
                max_age=7 * DAY_SECONDS,
                num_replicas=1,
            )
        except StreamExists:
            return
        log.info("created the missing event stream", stream=self.name)

    async def _put_consumer(self, consumer: str, reads: Sequence[str]) -> None:
        await self._jetstream.put_consumer(
            self.name,
            consumer,
            filter_subjects=list(reads),
            ack_policy="explicit",
            deliver_policy="all",
            replay_policy="instant",
            ack_wait=self._ack_wait_seconds,
            max_deliver=-1,
            max_ack_pending=_MAX_ACK_PENDING,
            max_waiting=_MAX_WAITING,
            # Longer than the retention of the stream: a consumer unused for so long has no position to keep.
            inactive_threshold=8 * DAY_SECONDS,
        )

    async def _drop_consumer(self, consumer: str) -> None:
        try:
            await self._jetstream.delete_consumer(self.name, consumer)
        except JetStreamRefused as error:
            log.debug(
                "the consumer created in the wrong stream was already removed", consumer=consumer, reason=str(error)
            )
