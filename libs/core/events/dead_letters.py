"""Dead letters: store events that cannot be applied with the reason, list, replay and purge them."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import Counter, Gauge

from libs.core.errors import Permanent, RuntimeFault
from libs.core.events.connection import NatsRejected
from libs.core.events.delivery import Received
from libs.core.events.jetstream import MESSAGE_ID, JetStream, MessageMissing, StoredMessage, StreamExists, StreamMissing
from libs.core.events.stream import DAY_SECONDS
from libs.core.observability.log import get_logger
from libs.core.process.isolation import repeat

log = get_logger(__name__)

DEAD_LETTER_STREAM = "THE0_DLQ"
PUBLISHED_AT = "The0-Published-At"
"""On a replayed message: the time of its first publishing, in nanoseconds since 1970."""

_PREFIX = "The0-"
_ORIGINAL = "The0-Original-"
_FIRST_PUBLISHED_AT = "The0-First-Published-At"
_LEFT_OUT = "The0-Payload-Left-Out"
_SERVERS_OWN = "nats-"
_MAX_REASON_CHARACTERS = 2000
_COUNT_SECONDS = 30.0
_COMPARED_LETTERS = 256

DEAD_LETTERS = Counter("runtime_dead_letters_total", "Messages that became dead letters.")
WAITING = Gauge("runtime_dead_letter_messages", "Dead letters of this service, as last read.")


class DeadLetterMissing(Permanent):
    """There is no dead letter with this number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"there is no dead letter {number}; `runtime dlq ls` lists the dead letters")


class PayloadLost(Permanent):
    """The dead letter was too large to be stored with its payload."""

    def __init__(self, number: int, sequence: int) -> None:
        super().__init__(
            f"dead letter {number} was stored without its payload, which was too large; "
            f"the payload is message {sequence} of its stream while the stream retains it"
        )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be applied. *headers* are those of its publishing; *number* identifies it for users."""

    number: int
    service: str
    reason: str
    attempts: int
    subject: str
    stream: str
    sequence: int
    published_at: datetime
    failed_at: datetime
    headers: Mapping[str, str]
    data: bytes
    payload_lost: bool = False

    @property
    def entity_id(self) -> str | None:
        """The id in the payload, if it can be read."""
        try:
            payload = json.loads(self.data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(payload, dict):
            return None
        lowered = {str(name).lower(): value for name, value in payload.items()}
        found = lowered.get("id") or lowered.get("entity_id")
        return found if isinstance(found, str) else None


class DeadLetters:
    """The stream of dead letters, one subject per service: `the0.dlq.<service>`. All methods raise NatsUnavailable."""

    def __init__(self, jetstream: JetStream, *, stream: str = DEAD_LETTER_STREAM, subjects: str = "the0.dlq") -> None:
        self._jetstream = jetstream
        self._stream = stream
        self._subjects = subjects

    async def dead_letter(self, service: str, delivery: Received, reason: str, attempts: int) -> None:
        """Store a message. May be repeated: the same message is stored once.

        Raises:
            JetStreamRefused: the stream rejects it, for instance because the disk is full.
        """
        await self._ensure_stream()
        headers = {_original(name): value for name, value in delivery.headers.items()}
        first_published_at = headers.pop(PUBLISHED_AT, str(delivery.published_at))
        headers |= {
            MESSAGE_ID: f"{service}:{delivery.key}",
            "The0-Reason": reason[:_MAX_REASON_CHARACTERS],
            "The0-Attempts": str(attempts),
            "The0-Subject": delivery.subject,
            "The0-Stream": delivery.stream,
            "The0-Sequence": str(delivery.sequence),
            _FIRST_PUBLISHED_AT: first_published_at,
        }
        subject = self._subject(service)
        try:
            await self._jetstream.publish(subject, delivery.data, headers)
        except NatsRejected:
            # With these headers it exceeds the server's limit.
            headers[_LEFT_OUT] = str(len(delivery.data))
            await self._jetstream.publish(subject, b"", headers)
        DEAD_LETTERS.inc()
        log.error(
            "an event became a dead letter",
            subject=delivery.subject,
            sequence=delivery.sequence,
            attempts=attempts,
            reason=reason,
        )

    async def contains(self, service: str, event: Received) -> bool:
        """Whether a message with the content of *event* is among the last dead letters of *service*."""
        try:
            first = (await self._jetstream.stream(self._stream)).last_sequence - _COMPARED_LETTERS
        except StreamMissing:
            return False
        headers = {name: value for name, value in event.headers.items() if name != PUBLISHED_AT}
        async for letter in self._each(service, max(1, first)):
            kept = {name: value for name, value in letter.headers.items() if name != PUBLISHED_AT}
            if (letter.subject, letter.data, kept) == (event.subject, event.data, headers):
                return True
        return False

    async def list(self, service: str | None = None, limit: int = 1000) -> list[DeadLetter]:
        """Return the oldest *limit* dead letters, of one service or of all."""
        letters: list[DeadLetter] = []
        async for letter in self._each(service):
            letters.append(letter)
            if len(letters) == limit:
                break
        return letters

    async def count(self, service: str) -> int:
        """Return the number of dead letters of *service*."""
        try:
            return await self._jetstream.count_messages(self._stream, self._subject(service))
        except StreamMissing:
            return 0

    async def watch(self, service: str) -> None:
        """Count the dead letters of *service* for the metric, forever."""

        async def one_round() -> None:
            try:
                WAITING.set(await self.count(service))
            except RuntimeFault as fault:
                log.debug("dead letters not counted", reason=str(fault))

        await repeat("count dead letters", one_round, _COUNT_SECONDS)

    async def show(self, number: int) -> DeadLetter:
        """Return one dead letter.

        Raises:
            DeadLetterMissing: there is none with this number.
        """
        return _letter(await self._stored(number))

    async def replay(self, number: int) -> DeadLetter:
        """Publish it unchanged on its own subject, and remove it from the dead letters.

        It keeps its place among the events of its entity: later events still have precedence.

        Raises:
            DeadLetterMissing: there is none with this number.
            PayloadLost: it was stored without its payload.
            NobodyListens: no stream has its subject now.
        """
        stored = await self._stored(number)
        letter = _letter(stored)
        if letter.payload_lost:
            raise PayloadLost(number, letter.sequence)
        headers = dict(letter.headers)
        headers[PUBLISHED_AT] = stored.headers.get(_FIRST_PUBLISHED_AT) or str(stored.published_at)
        headers[MESSAGE_ID] = f"replay:{self._stream}:{number}:{stored.published_at}"
        await self._jetstream.publish(letter.subject, letter.data, headers)
        await self._remove(number)
        return letter

    async def purge(self, service: str | None = None, number: int | None = None) -> int:
        """Remove one dead letter, those of a service, or all; return how many.

        Raises:
            DeadLetterMissing: there is none with this number.
        """
        if number is not None:
            await self.show(number)
            await self._remove(number)
            return 1
        try:
            return await self._jetstream.purge_stream(self._stream, self._subject(service) if service else None)
        except StreamMissing:
            return 0

    async def _stored(self, number: int) -> StoredMessage:
        try:
            return await self._jetstream.message(self._stream, number)
        except (MessageMissing, StreamMissing):
            raise DeadLetterMissing(number) from None

    async def _each(self, service: str | None, sequence: int = 1) -> AsyncIterator[DeadLetter]:
        subject = self._subject(service) if service else f"{self._subjects}.>"
        while True:
            try:
                found = await self._jetstream.next_message(self._stream, subject, sequence)
            except StreamMissing:
                return
            if found is None:
                return
            yield _letter(found)
            sequence = found.sequence + 1

    async def _remove(self, number: int) -> None:
        try:
            await self._jetstream.delete_message(self._stream, number)
        except MessageMissing:
            log.debug("the dead letter was already removed", number=number)

    async def _ensure_stream(self) -> None:
        try:
            await self._jetstream.stream(self._stream)
        except StreamMissing:
            try:
                await self._jetstream.create_stream(
                    self._stream,
                    subjects=[f"{self._subjects}.>"],
                    storage="file",
                    retention="limits",
                    max_age=90 * DAY_SECONDS,
                    num_replicas=1,
                )
            except StreamExists:
                log.debug("the stream of dead letters already exists", stream=self._stream)

    def _subject(self, service: str) -> str:
        return f"{self._subjects}.{service}"


def _original(name: str) -> str:
    """Return the name under which a header is stored: a header that controls the server must not act again."""
    return _ORIGINAL + name if name.lower().startswith(_SERVERS_OWN) else name


def _letter(message: StoredMessage) -> DeadLetter:
    headers = message.headers
    published_at = int(headers.get(_FIRST_PUBLISHED_AT) or message.published_at)
    return DeadLetter(
        number=message.sequence,
        service=message.subject.rpartition(".")[2],
        reason=headers.get("The0-Reason", ""),
        attempts=int(headers.get("The0-Attempts") or 0),
        subject=headers.get("The0-Subject", ""),
        stream=headers.get("The0-Stream", ""),
        sequence=int(headers.get("The0-Sequence") or 0),
        published_at=datetime.fromtimestamp(published_at / 1e9, UTC),
        failed_at=datetime.fromtimestamp(message.published_at / 1e9, UTC),
        headers={
            name.removeprefix(_ORIGINAL): value
            for name, value in headers.items()
            if name.startswith(_ORIGINAL) or not (name.startswith(_PREFIX) or name.lower().startswith(_SERVERS_OWN))
        },
        data=message.data,
        payload_lost=_LEFT_OUT in headers,
    )
