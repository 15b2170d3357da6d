"""JetStream's API, as far as the runtime uses it.

The driver's own administration is used, except for three requests on `$JS.API.…` whose results it truncates:

- information about a stream: the driver cuts the creation time to microseconds, and the names of consumers contain its
  nanoseconds; it also drops the server's time;
- a stored message: the driver cuts the time of publication, which orders events, and decodes headers as ASCII;
- a purge: the driver drops the number of messages removed.
"""

import base64
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from nats.js.errors import APIError
from nats.js.manager import JetStreamManager

from libs.core.errors import Permanent
from libs.core.events.connection import Message, NatsConnection, NatsUnavailable, NobodyListens
from libs.core.timestamps import parse_rfc3339

_STREAM_NOT_FOUND = 10059
_CONSUMER_NOT_FOUND = 10014
_STREAM_NAME_IN_USE = 10058
_MESSAGE_NOT_FOUND = 10037
_STORE_NOT_MADE = 10049
_API_SECONDS = 3.0

T = TypeVar("T")

MESSAGE_ID = "Nats-Msg-Id"
"""The header by which a stream detects a duplicate message."""


class JetStreamRefused(Permanent):
    """JetStream rejects a valid request."""

    def __init__(self, what: str, code: int, description: str) -> None:
        super().__init__(f"JetStream refuses {what}: {description} ({code})")
        self.code = code


class StreamMissing(JetStreamRefused):
    """There is no such stream."""


class StreamExists(JetStreamRefused):
    """The stream exists with another configuration."""


class ConsumerMissing(JetStreamRefused):
    """There is no such consumer."""


class MessageMissing(JetStreamRefused):
    """There is no message with this sequence."""


_KINDS: dict[int, type[JetStreamRefused]] = {
    _STREAM_NOT_FOUND: StreamMissing,
    _STREAM_NAME_IN_USE: StreamExists,
    _CONSUMER_NOT_FOUND: ConsumerMissing,
    _MESSAGE_NOT_FOUND: MessageMissing,
}


@dataclass(frozen=True, slots=True)
class StreamState:
    """The state of a stream. *created_at* (nanoseconds since 1970) differs for an earlier one of the same name.

    *clock_lead*: an upper bound of the nanoseconds that the server's clock is ahead of this process's.
    """

    name: str
    created_at: int
    subjects: tuple[str, ...]
    messages: int
    first_sequence: int
    last_sequence: int
    clock_lead: int = 0

    def covers(self, subject: str) -> bool:
        """Whether it stores messages on *subject*."""
        return any(subject_matches(pattern, subject) for pattern in self.subjects)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message in a stream. *published_at* is in nanoseconds since 1970."""

    subject: str
    sequence: int
    data: bytes
    headers: Mapping[str, str]
    published_at: int


@dataclass(frozen=True, slots=True)
class Published:
    """A stream's acknowledgement of a message. A *duplicate* was stored before and is not stored again."""

    stream: str
    sequence: int
    duplicate: bool


class JetStream:
    """JetStream over a connection. Every method raises NatsUnavailable without an answer."""

    def __init__(self, connection: NatsConnection) -> None:
        self.connection = connection

    async def stream(self, name: str) -> StreamState:
        """Return the state of a stream.

        Raises:
            StreamMissing: there is none.
        """
        asked_at = time.time_ns()
        return _stream_state(await self._ask(f"stream {name}", f"STREAM.INFO.{name}", {}), asked_at)

    async def count_messages(self, name: str, subject: str) -> int:
        """Return how many messages a stream has on *subject*.

        Raises:
            StreamMissing: there is none.
        """
        info = await self._manage(f"stream {name}", lambda manager: manager.stream_info(name, subject))
        return sum((info.state.subjects or {}).values())

    async def create_stream(self, name: str, **config: Any) -> None:
        """Create a stream. Creating one that exists with the same configuration changes nothing.

        Args:
            config: fields of the driver's `StreamConfig`; durations are in seconds.

        Raises:
            StreamExists: it exists with another configuration, which is kept.
        """
        await self._manage(f"to create stream {name}", lambda manager: manager.add_stream(name=name, **config))

    async def delete_stream(self, name: str) -> None:
        """Delete a stream with all its messages.

        Raises:
            StreamMissing: there is none.
        """
        await self._manage(f"to delete stream {name}", lambda manager: manager.delete_stream(name))

    async def purge_stream(self, name: str, subject: str | None = None) -> int:
        """Remove all messages, or those on *subject*; return how many."""
        body = {} if subject is None else {"filter": subject}
        return int((await self._ask(f"to purge stream {name}", f"STREAM.PURGE.{name}", body)).get("purged", 0))

    async def put_consumer(self, stream: str, name: str, **config: Any) -> None:
        """Create a durable consumer, or update its configuration. Its position is kept.

        Args:
            config: fields of the driver's `ConsumerConfig`; durations are in seconds.

        Raises:
            StreamMissing: there is no such stream.
            JetStreamRefused: the configuration is invalid, or cannot be applied to the existing consumer.
        """
        await self._manage(
            f"to create consumer {name}",
            lambda manager: manager.add_consumer(stream, name=name, durable_name=name, **config),
        )

    async def delete_consumer(self, stream: str, name: str) -> None:
        """Remove a consumer; its messages stay in the stream.

        Raises:
            ConsumerMissing: there is none.
        """
        await self._manage(f"to delete consumer {name}", lambda manager: manager.delete_consumer(stream, name))

    async def message(self, stream: str, sequence: int) -> StoredMessage:
        """Return one stored message.

        Raises:
            MessageMissing: there is none with this sequence.
        """
        found = await self._ask(f"message {sequence} of {stream}", f"STREAM.MSG.GET.{stream}", {"seq": sequence})
        return _stored(found["message"])

    async def next_message(self, stream: str, subject: str, sequence: int) -> StoredMessage | None:
        """Return the first message on *subject* from *sequence* on, or None."""
        try:
            body = {"seq": sequence, "next_by_subj": subject}
            return _stored((await self._ask(f"messages of {stream}", f"STREAM.MSG.GET.{stream}", body))["message"])
        except MessageMissing:
            return None

    async def delete_message(self, stream: str, sequence: int) -> None:
        """Remove one message.

        Raises:
            MessageMissing: there is none with this sequence.
        """
        await self._manage(
            f"to delete message {sequence} of {stream}", lambda manager: manager.delete_msg(stream, sequence)
        )

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, timeout_seconds: float = 3.0
    ) -> Published:
        """Store a message in the stream that has its subject; core subscribers receive it as well.

        Raises:
            NobodyListens: no stream has this subject.
            NatsUnavailable: stored or not; publish again with the same message id.
            JetStreamRefused: the stream rejects it, for example because it is full.
        """
        answer = await self.connection.request(subject, data, headers, timeout_seconds)
        body = _body(f"to store a message on {subject}", answer)
        if "stream" not in body:
            raise NatsUnavailable(f"no stream acknowledged the message on {subject}")
        return Published(str(body["stream"]), int(body.get("seq", 0)), bool(body.get("duplicate")))

    async def _manage(self, what: str, call: Callable[[JetStreamManager], Awaitable[T]]) -> T:
        try:
            return await self.connection.manage(what, call, _API_SECONDS)
        except APIError as error:
            raise _refusal(what, int(error.err_code or error.code or 0), str(error.description)) from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise NatsUnavailable(f"the answer to {what} is not a JetStream answer: {error!r}") from error

    async def _ask(self, what: str, subject: str, body: Mapping[str, Any]) -> dict[str, Any]:
        data = json.dumps(body).encode()
        try:
            answer = await self.connection.request(f"$JS.API.{subject}", data, timeout_seconds=_API_SECONDS)
        except NobodyListens as error:
            raise NatsUnavailable("JetStream is disabled on the server, or has no leader now") from error
        return _body(what, answer)


def subject_matches(pattern: str, subject: str) -> bool:
    """Whether *pattern*, which may have `*` and a final `>`, matches *subject*."""
    wanted: Sequence[str] = pattern.split(".")
    given = subject.split(".")
    if wanted[-1] == ">":
        return len(given) >= len(wanted) and all(w in ("*", g) for w, g in zip(wanted[:-1], given, strict=False))
    return len(given) == len(wanted) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


def parse_headers(raw: bytes) -> dict[str, str]:
    """Return the headers of a stored message, which start with a version line."""
    lines = raw.decode("utf-8", "replace").split("\r\n")[1:]
    return {name.strip(): value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}


def _body(what: str, answer: Message) -> dict[str, Any]:
    try:
        body = json.loads(answer.data)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise NatsUnavailable(f"the answer to {what} is not a JetStream answer")
    error = body.get("error")
    if isinstance(error, dict):
        code = int(error.get("err_code") or error.get("code") or 0)
        if int(error.get("code") or 0) == 503:
            raise NatsUnavailable(str(error.get("description")))
        raise _refusal(what, code, str(error.get("description")))
    return body


def _refusal(what: str, code: int, description: str) -> JetStreamRefused | NatsUnavailable:
    if code == _STORE_NOT_MADE:
        # Happens while the files of a deleted stream of the same name are still being removed.
        return NatsUnavailable(f"JetStream fails {what}: {description} ({code})")
    return _KINDS.get(code, JetStreamRefused)(what, code, description)


def _stream_state(body: Mapping[str, Any], asked_at: int = 0) -> StreamState:
    config, state = body["config"], body.get("state") or {}
    answered_at = body.get("ts") if asked_at else None  # absent on servers before 2.10
    return StreamState(
        name=str(config["name"]),
        created_at=parse_rfc3339(str(body["created"])).nanoseconds,
        subjects=tuple(config.get("subjects") or ()),
        messages=int(state.get("messages", 0)),
        first_sequence=int(state.get("first_seq", 0)),
        last_sequence=int(state.get("last_seq", 0)),
        clock_lead=parse_rfc3339(str(answered_at)).nanoseconds - asked_at if answered_at else 0,
    )


def _stored(message: Mapping[str, Any]) -> StoredMessage:
    return StoredMessage(
        subject=str(message["subject"]),
        sequence=int(message["seq"]),
        data=base64.b64decode(message.get("data") or b""),
        headers=parse_headers(base64.b64decode(message["hdrs"])) if message.get("hdrs") else {},
        published_at=parse_rfc3339(str(message["time"])).nanoseconds,
    )
