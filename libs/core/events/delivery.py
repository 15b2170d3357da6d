"""A message that a consumer delivers, and its acknowledgement."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from libs.core.events.connection import Message, NatsConnection

_ACK_PREFIX = ("$JS", "ACK")


class Received(Protocol):
    """An event that a worker received: a delivery of the stream, or a copy that came beside it."""

    @property
    def subject(self) -> str:
        """The subject on which it was published."""

    @property
    def data(self) -> bytes:
        """Its payload."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, as they were published."""

    @property
    def stream(self) -> str:
        """The name of its stream, "" when it is not known to be in one."""

    @property
    def stream_created_at(self) -> int:
        """When its stream was made, in nanoseconds since 1970; UNKNOWN_STREAM when it is not known to be in one."""

    @property
    def sequence(self) -> int:
        """Its place in the stream; 0 when it is not known to be in one."""

    @property
    def published_at(self) -> int:
        """When it was published, in nanoseconds since 1970."""

    @property
    def attempt(self) -> int:
        """How often it was received, this time included."""

    @property
    def key(self) -> str:
        """What tells it from other events of the service."""

    async def ack(self) -> None:
        """It is dealt with."""

    async def nak(self, delay_seconds: float) -> None:
        """Deliver it again after *delay_seconds*."""

    async def in_progress(self) -> None:
        """Give it as much time again as it had."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a stored message. It comes again unless it is acknowledged in time.

    `attempt` counts the deliveries of the message, this one included; times are nanoseconds since 1970.
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
        """What tells it from other messages of streams with this name."""
        return f"{self.stream_created_at}:{self.sequence}"

    async def ack(self) -> None:
        """It is dealt with. Raises NatsUnavailable; then it comes again."""
        await self.connection.publish(self.reply, b"+ACK")

    async def nak(self, delay_seconds: float) -> None:
        """Deliver it again after *delay_seconds*. Raises NatsUnavailable; then it comes again anyway."""
        delay = json.dumps({"delay": round(delay_seconds * 1e9)})
        await self.connection.publish(self.reply, f"-NAK {delay}".encode())

    async def in_progress(self) -> None:
        """Give it as much time again as it had. Raises NatsUnavailable."""
        await self.connection.publish(self.reply, b"+WPI")


def delivery_of(message: Message, stream_created_at: int, connection: NatsConnection) -> Delivery | None:
    """The delivery in a message of a pull subscription, or None when it is something else.

    The reply subject says where it stands:
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
