"""Read copies of a service's events over core NATS, in addition to the consumer of the stream.

The platform API deletes and recreates the stream at any moment. An event that the old stream acknowledged and no
worker has read is then lost. Each worker therefore keeps the copies of the last minute, bounded in number and bytes.
They are not used while the stream exists. After its loss they are applied, oldest first, and then as they arrive, until
the new stream has been read for a while. The store applies each event once: a copy of an applied event changes
nothing.

All workers keep all copies, in the order of publishing: the loss of one worker loses no copies, and an order
across several workers is unknown (:mod:`libs.core.events.copy_order`).
"""

import asyncio
import hashlib
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from libs.core.events.connection import Message, NatsConnection
from libs.core.events.copy_order import CopyOrder
from libs.core.observability.log import get_logger
from libs.core.store.history import UNKNOWN_STREAM, Stamp

log = get_logger(__name__)

_KEPT_COPIES = 8192
_KEPT_BYTES = 16 * 1024 * 1024
_KEPT_SECONDS = 60.0
_HEADER_BYTES = 200
_DELAY_SECONDS = (0.15, 0.25)
_SETTLE_SECONDS = 5.0
_POLL_SECONDS = 0.03


@dataclass(slots=True, eq=False)
class Copy:
    """One copy of an event, acknowledged like a delivery; see :class:`libs.core.events.delivery.Delivery`.

    `published_at` is its arrival by the server's clock, in nanoseconds since 1970.
    """

    subject: str
    data: bytes
    headers: Mapping[str, str]
    published_at: int
    received_monotonic: float
    hand_out_again: Callable[["Copy", float], None]
    attempt: int = 1
    stamp: Stamp | None = None
    """Its place among the events, once known."""
    stream: str = ""
    stream_created_at: int = UNKNOWN_STREAM
    sequence: int = 0

    @property
    def key(self) -> str:
        """A key that identifies its event; the same in every worker."""
        content = hashlib.sha256(f"{self.subject}\0{sorted(self.headers.items())}\0".encode())
        content.update(self.data)
        return f"copy:{content.hexdigest()}"

    @property
    def age_seconds(self) -> float:
        """The time since it arrived."""
        return time.monotonic() - self.received_monotonic

    @property
    def size_bytes(self) -> int:
        """Its approximate size in memory."""
        return len(self.data) + _HEADER_BYTES * (1 + len(self.headers))

    async def ack(self) -> None:
        """Acknowledge it."""

    async def nak(self, delay_seconds: float) -> None:
        """Deliver it again after *delay_seconds*."""
        self.attempt += 1
        self.come_again(delay_seconds)

    def come_again(self, delay_seconds: float) -> None:
        """Deliver it again after *delay_seconds*, without counting an attempt."""
        self.hand_out_again(self, delay_seconds)

    async def in_progress(self) -> None:
        """Do nothing: a copy has no acknowledgement timeout."""


class CopyLog:
    """The latest copies in order of arrival, and how many of them were delivered since the loss of the stream."""

    def __init__(self, *, copies: int = _KEPT_COPIES, size_bytes: int = _KEPT_BYTES, seconds: float = _KEPT_SECONDS):
        self._most_copies, self._most_bytes, self._seconds = copies, size_bytes, seconds
        self._kept: deque[Copy] = deque()
        self._bytes = 0
        self._handed_out = 0
        self._handing_out = False

    def __len__(self) -> int:
        return len(self._kept)

    def append(self, copy: Copy) -> int:
        """Keep *copy*, drop copies beyond the limits, and return how many undelivered ones were dropped."""
        self._kept.append(copy)
        self._bytes += copy.size_bytes
        forgotten = 0
        while self._kept and (
            len(self._kept) > self._most_copies
            or self._bytes > self._most_bytes
            or copy.received_monotonic - self._kept[0].received_monotonic > self._seconds
        ):
            self._bytes -= self._kept.popleft().size_bytes
            if self._handed_out:
                self._handed_out -= 1
            elif self._handing_out:
                forgotten += 1
        return forgotten

    def start(self, now: float) -> None:
        """Deliver the kept copies that are not too old at the monotonic time *now*, and then new ones."""
        while self._kept and now - self._kept[0].received_monotonic > self._seconds:
            self._bytes -= self._kept.popleft().size_bytes
        self._handing_out = True

    def stop(self) -> None:
        """Stop delivering; start with the oldest next time."""
        self._handing_out = False
        self._handed_out = 0

    def take(self, at_most: int, received_before: float) -> list[Copy]:
        """Return the next copies that arrived before this monotonic time."""
        if not self._handing_out:
            return []
        waiting = islice(self._kept, self._handed_out, self._handed_out + at_most)
        taken = [copy for copy in waiting if copy.received_monotonic < received_before]
        self._handed_out += len(taken)
        return taken


class CopyReader:
    """Keeps the copies of *subjects*, and passes them to *receive* after a loss of the stream.

    Args:
        receive: called with each copy and the order that its time follows from; without the order when it is
            delivered again after a failure.
        room: returns how many copies may be delivered now.
    """

    def __init__(
        self,
        connection: NatsConnection,
        subjects: Sequence[str],
        receive: Callable[[Copy, CopyOrder | None], None],
        room: Callable[[], int],
    ) -> None:
        self._connection = connection
        self._subjects = tuple(subjects)
        self._receive_copy = receive
        self._room = room
        self._log = CopyLog()
        self._lost = asyncio.Event()
        self._bound_at: float | None = None
        self._again = 0
        self._clock_lead = 0
        self.arrived = asyncio.Event()
        """Set by each copy; cleared by the waiting task."""

    def lost(self) -> None:
        """Apply copies from now on: the stream was deleted or replaced."""
        self._bound_at = None
        self._lost.set()

    def bound(self, clock_lead: int) -> None:
        """Note that the stream is read again; *clock_lead*: nanoseconds by which the server's clock is ahead."""
        self._bound_at = time.monotonic()
        self._clock_lead = clock_lead

    async def run(self) -> None:
        """Keep copies, and deliver them after each loss of the stream. Does not return."""
        subscriptions = [await self._connection.subscribe(subject, self._keep) for subject in self._subjects]
        try:
            while True:
                await self._lost.wait()
                await self._hand_out()
        finally:
            for subscription in subscriptions:
                await subscription.cancel()

    async def _keep(self, message: Message) -> None:
        copy = Copy(
            subject=message.subject,
            data=message.data,
            headers=message.headers,
            published_at=time.time_ns() + self._clock_lead,
            received_monotonic=time.monotonic(),
            hand_out_again=self._hand_out_again,
        )
        if forgotten := self._log.append(copy):
            log.warning("copies of events were dropped before they were applied", number=forgotten)
        self.arrived.set()

    async def _hand_out(self) -> None:
        """Deliver copies until the stream has been read again for some time."""
        # The stream has precedence, and then one worker before the others, which find nothing left to do.
        delay_seconds = random.uniform(*_DELAY_SECONDS)  # noqa: S311 - only spreads the workers
        order, number = CopyOrder(), 0
        self._log.start(time.monotonic())
        while True:
            now = time.monotonic()
            room = max(0, self._room() - self._again)
            taken = self._log.take(room, now - delay_seconds)
            for copy in taken:
                self._receive_copy(copy, order)
            number += len(taken)
            settled = self._bound_at is not None and now - self._bound_at > _SETTLE_SECONDS
            if settled and len(taken) < room:
                break
            await asyncio.sleep(_POLL_SECONDS)
        self._lost.clear()
        self._log.stop()
        log.info("the event stream was recreated and copies of events were applied", number=number)

    def _hand_out_again(self, copy: Copy, delay_seconds: float) -> None:
        def now() -> None:
            self._again -= 1
            self._receive_copy(copy, None)

        self._again += 1
        asyncio.get_running_loop().call_later(delay_seconds, now)
