"""Pull messages of a consumer: batch size, and detection of a deleted consumer.

Requests are made on the `$JS.API` subject instead of the driver's `fetch`, which sends a request only after the last
one is done. Measured (10,000 messages, each acknowledged, median of 5): 5,570 a second, and 3,150 with `fetch(256)`.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Self

from libs.core.errors import Retryable
from libs.core.events.connection import Message, NatsConnection, Subscription
from libs.core.events.delivery import Delivery, delivery_of
from libs.core.events.stream import Binding
from libs.core.observability.log import get_logger

log = get_logger(__name__)

_REQUEST_MESSAGES = 256
_EXPIRY_SECONDS = 20.0
_HEARTBEAT_SECONDS = 1.0
_SILENCE_SECONDS = 3.0
_POLL_SECONDS = 1.0
_GONE = ("consumer deleted", "consumer is push based", "server shutdown", "leadership change", "stream deleted")


class BindingLost(Retryable):
    """The consumer no longer serves this process; find or create it again. *kind* is a fixed word for the metric."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"the consumer was lost: {detail or kind}")
        self.kind = kind


class Puller:
    """Keeps enough requests open at one consumer, with at most *capacity* messages requested or in hand.

    Args:
        receive: called with each message.
        in_hand: the number of received messages that are not processed yet.
    """

    def __init__(
        self,
        connection: NatsConnection,
        binding: Binding,
        receive: Callable[[Delivery], None],
        in_hand: Callable[[], int],
        capacity: int,
    ) -> None:
        self._connection = connection
        self._binding = binding
        self._receive_delivery = receive
        self._in_hand = in_hand
        self._capacity = capacity
        self._generation = connection.generation
        self._inbox = connection.new_inbox()
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{binding.stream.name}.{binding.consumer}"
        self._asked: dict[str, int] = {}
        self._requests = 0
        self._heard_at = time.monotonic()
        self._lost: BindingLost | None = None
        self._look = asyncio.Event()
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> Self:
        self._subscription = await self._connection.subscribe(
            f"{self._inbox}.*", self._receive, on_connect=self._look.set
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._subscription is not None:
            await self._subscription.cancel()

    async def run_until_lost(self) -> None:
        """Pull until the consumer is lost.

        Raises:
            BindingLost: with the reason.
            NatsUnavailable: the connection was lost.
        """
        while True:
            if self._lost is not None:
                raise self._lost
            if self._connection.generation != self._generation or not self._connection.connected:
                raise BindingLost("reconnected", "the connection to the server broke")
            if self._asked and time.monotonic() - self._heard_at > _SILENCE_SECONDS:
                raise BindingLost("silent", f"no heartbeat for {_SILENCE_SECONDS:g} s")
            await self._ask()
            self._look.clear()
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._look.wait()
            except TimeoutError:
                continue

    def freed(self) -> None:
        """Note that messages were processed: more may be requested."""
        if sum(self._asked.values()) < _REQUEST_MESSAGES // 2:
            self._look.set()

    async def _ask(self) -> None:
        # A request for few messages costs as much as one for many, so wait for a larger one.
        open_messages = sum(self._asked.values())
        room = min(_REQUEST_MESSAGES, self._capacity - self._in_hand() - open_messages)
        if open_messages >= _REQUEST_MESSAGES // 2 or room < min(_REQUEST_MESSAGES // 4, self._capacity // 2):
            return
        self._requests += 1
        token = str(self._requests)
        if not self._asked:
            self._heard_at = time.monotonic()
        self._asked[token] = room
        body = {
            "batch": room,
            "expires": round(_EXPIRY_SECONDS * 1e9),
            "idle_heartbeat": round(_HEARTBEAT_SECONDS * 1e9),
        }
        await self._connection.publish(self._subject, json.dumps(body).encode(), reply=f"{self._inbox}.{token}")

    async def _receive(self, message: Message) -> None:
        self._heard_at = time.monotonic()
        delivery = delivery_of(message, self._binding.stream.created_at, self._connection)
        if delivery is None:
            self._receive_status(message)
            return
        # A message has the subject it was published on and does not name the request that it answers. The server serves
        # requests in order.
        oldest = next(iter(self._asked), None)
        if oldest is not None:
            self._asked[oldest] -= 1
            if self._asked[oldest] <= 0:
                del self._asked[oldest]
        self.freed()
        self._receive_delivery(delivery)

    def _receive_status(self, message: Message) -> None:
        status = message.headers.get("Status", "")
        description = message.headers.get("Description", "")
        if status == "100":
            return
        # Any other status ends this request.
        self._asked.pop(message.subject.rpartition(".")[2], None)
        self._look.set()
        if status == "503":
            self._lost = BindingLost("consumer-missing", "there is no such consumer")
        elif status == "409" and any(word in description.lower() for word in _GONE):
            self._lost = BindingLost(description.lower().replace(" ", "-"), description)
        elif status not in ("404", "408"):
            log.warning("a request for messages was refused", status=status, description=description)
            self._lost = BindingLost("refused", f"{status} {description}")
