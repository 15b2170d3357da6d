"""A message that a consumer delivers, and its acknowledgement."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from libs.core.events.connection import Message, NatsConnection

_ACK_PREFIX = ("$JS", "ACK")


class Received(Protocol):
    """An event that a worker received: a delivery of the stream, or a copy from core NATS."""

    @property
    def subject(self) -> str:
        """The subject on which it was published."""

    @property
    def data(self) -> bytes:
        """Its payload."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers as published."""

    @property
    def stream(self) -> str:
        """The name of its stream; "" when unknown."""

    @property
    def stream_created_at(self) -> int:
        """The creation time of its stream, in nanoseconds since 1970; UNKNOWN_STREAM when unknown."""

    @property
    def sequence(self) -> int:
        """Its sequence in the stream; 0 when unknown."""

    @property
    def published_at(self) -> int:
        """Its publishing time, in nanoseconds since 1970."""

    @property
    def attempt(self) -> int:
        """The number of deliveries, including this one."""

    @property
    def key(self) -> str:
        """A key that identifies it among the events of the service."""

    async def ack(self) -> None:
        """Acknowledge it."""

    async def nak(self, delay_seconds: float) -> None:
        """Request redelivery after *delay_seconds*."""

    async def in_progress(self) -> None:
        """Reset its acknowledgement timeout."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a stored message. It is redelivered unless it is acknowledged in time.

    `attempt` counts the deliveries of the message, including this one; times are nanoseconds since 1970.
    """

    subject: str
    data: bytes
    headers: Mapping[str, str]
    stream: str
    stream_created_at: int
    sequence: int
    published_at: int
    attempt: int
    reply: str
    connection: NatsConnection

    @property
    def key(self) -> str:
        """A key that identifies it among messages of streams with this name."""
        return f"{self.stream_created_at}:{self.sequence}"

    async def ack(self) -> None:
        """Acknowledge it. Raises NatsUnavailable; then it is redelivered."""
        await self.connection.publish(self.reply, b"+ACK")

    async def nak(self, delay_seconds: float) -> None:
        """Request redelivery after *delay_seconds*. Raises NatsUnavailable; then it is redelivered anyway."""
        delay = json.dumps({"delay": round(delay_seconds * 1e9)})
        await self.connection.publish(self.reply, f"-NAK {delay}".encode())

    async def in_progress(self) -> None:
        """Reset its acknowledgement timeout. Raises NatsUnavailable."""
        await self.connection.publish(self.reply, b"+WPI")


def delivery_of(message: Message, stream_created_at: int, connection: NatsConnection) -> Delivery | None:
    """Return the delivery in a message of a pull subscription, or None when it is something else.

    The reply subject contains its position:
    `$JS.ACK.<stream>.<consumer>.<attempt>.<sequence>.<consumer sequence>.<time>.<pending>`, with domain and account
    before the stream when servers are configured so.
    """
    parts = message.reply.split(".")
    if tuple(parts[:2]) != _ACK_PREFIX or len(parts) < 9:
        return None
    first = 2 if len(parts) == 9 else 4
    stream, _, attempt, sequence, _, published_at = parts[first : first + 6]
    return Delivery(
        subject=message.subject,
        data=message.data,
        headers=message.headers,
        stream=stream,
        stream_created_at=stream_created_at,
        sequence=int(sequence),
        published_at=int(published_at),
        attempt=int(attempt),
        reply=message.reply,
        connection=connection,
    )
