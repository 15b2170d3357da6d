"""Notify owners and masters of a change at once. Only a hint: the next scan finds the change if it is lost."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from libs.core.aio.wake import Wake
from libs.core.errors import RuntimeFault
from libs.core.events.connection import Message, NatsConnection, Subscription
from libs.core.observability.log import get_logger
from libs.core.observability.tracing import Headers, trace_headers, trace_of

log = get_logger(__name__)


class WakeUps:
    """Wake-ups of one service over core NATS. Without a connection (None) nothing is sent or received."""

    def __init__(self, connection: NatsConnection | None, service: str) -> None:
        self._connection = connection
        self._service = service

    async def segments_changed(self, segment_ids: Iterable[int]) -> None:
        """Wake the owners of these segments. Never raises; without NATS nothing happens."""
        for segment_id in segment_ids:
            await self._send(self.segment_subject(segment_id))

    async def partitions_changed(self) -> None:
        """Wake the masters after a partition became occupied or empty. Never raises."""
        await self._send(self.partitions_subject)

    async def entity_moved(self, segment_id: int) -> None:
        """Wake the owner of the segment that an entity moved to, and the masters. Never raises."""
        await self.segments_changed([segment_id])
        await self.partitions_changed()

    @asynccontextmanager
    async def waking(self, segment_id: int, wake: Wake) -> AsyncIterator[None]:
        """Set *wake* within the block when the segment changed, and when that may have been missed."""
        subscription = await self._listen(self.segment_subject(segment_id), wake)
        try:
            yield
        finally:
            if subscription is not None:
                await subscription.cancel()

    async def on_partitions(
        self, wake: Wake, led_by: Callable[[Headers], None] = lambda _: None
    ) -> Subscription | None:
        """Set *wake* when partitions became occupied or empty, and when that may have been missed.

        Args:
            led_by: called first, with the trace of the change.
        """
        return await self._listen(self.partitions_subject, wake, led_by)

    @property
    def partitions_subject(self) -> str:
        """`runtime.<service>.partitions`."""
        return f"runtime.{self._service}.partitions"

    def segment_subject(self, segment_id: int) -> str:
        """`runtime.<service>.segment.<n>`."""
        return f"runtime.{self._service}.segment.{segment_id}"

    async def _listen(
        self, subject: str, wake: Wake, led_by: Callable[[Headers], None] = lambda _: None
    ) -> Subscription | None:
        if self._connection is None:
            return None

        async def received(message: Message) -> None:
            led_by(trace_of(message.headers))
            wake.set()

        return await self._connection.subscribe(subject, received, on_connect=wake.set)

    async def _send(self, subject: str) -> None:
        if self._connection is None or not self._connection.connected:
            return
        try:
            await self._connection.publish(subject, headers=trace_headers())
        except RuntimeFault as error:
            log.debug("a wake-up was not sent", subject=subject, reason=str(error))
