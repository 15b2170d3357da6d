"""Subjects, headers and reply subjects as JetStream writes them."""

import asyncio
from typing import cast

import pytest
from nats.js.errors import APIError, BadRequestError, ServerError

from libs.core.events.connection import Message, NatsConnection, NatsUnavailable
from libs.core.events.delivery import delivery_of
from libs.core.events.jetstream import JetStream, JetStreamRefused, StreamExists, parse_headers, subject_matches


@pytest.mark.parametrize(
    ("pattern", "subject", "matches"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b", "a.b", True),
        ("*.b.>", "a.c.d", False),
    ],
)
def test_subjects_match_patterns_as_the_server_matches_them(pattern: str, subject: str, matches: bool) -> None:
    assert subject_matches(pattern, subject) is matches


def test_headers_of_a_stored_message_are_read() -> None:
    raw = b"NATS/1.0\r\ntraceparent: 00-a-b-01\r\nNats-Msg-Id:x:y\r\nname: \xc3\xa9\r\n\r\n"
    assert parse_headers(raw) == {"traceparent": "00-a-b-01", "Nats-Msg-Id": "x:y", "name": "é"}


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.THE0_EVENTS.bot-runner-1.3.17.20.1700000000000000001.5",
        "$JS.ACK.hub.account.THE0_EVENTS.bot-runner-1.3.17.20.1700000000000000001.5.random",
    ],
)
async def test_delivery_has_its_stream_position(reply: str) -> None:
    connection = NatsConnection("nats://nowhere", name="test")
    delivery = delivery_of(Message("the0.bot.created", b"{}", {}, reply), 99, connection)
    assert delivery is not None
    assert (delivery.stream, delivery.attempt, delivery.sequence, delivery.published_at) == (
        "THE0_EVENTS",
        3,
        17,
        1_700_000_000_000_000_001,
    )
    with pytest.raises(NatsUnavailable):
        await delivery.ack()


async def test_a_status_message_is_no_delivery() -> None:
    connection = NatsConnection("nats://nowhere", name="test")
    await asyncio.sleep(0)
    assert delivery_of(Message("_INBOX.x.1", b"", {"Status": "408"}), 99, connection) is None


class FailingConnection:
    """In place of a server that fails for a moment: a real one does so once in some thousand re-creations."""

    def __init__(self, error: APIError) -> None:
        self._error = error

    async def manage(self, *_: object) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ServerError(500, "error creating store for stream", 10049), NatsUnavailable),
        (BadRequestError(400, "stream name already in use", 10058), StreamExists),
        (ServerError(500, "stream create failed", 10074), JetStreamRefused),
    ],
)
async def test_a_stream_that_cannot_be_made_for_a_moment_is_no_refusal(
    error: APIError, raised: type[Exception]
) -> None:
    jetstream = JetStream(cast(NatsConnection, FailingConnection(error)))

    with pytest.raises(raised) as caught:
        await jetstream.create_stream("EVENTS")

    assert type(caught.value) is raised
    assert str(error.description) in str(caught.value)
