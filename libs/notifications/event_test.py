from datetime import UTC, datetime
from typing import Any

import pytest

from libs.core.config.notify_settings import EVENT_NAMES
from libs.core.store.entities import Entity
from libs.notifications.event import Event, Notice, RequestInvalid, id_of, request_in

NOW = datetime(2026, 3, 1, tzinfo=UTC)
URL = "https://hook.example/x"


def notice(key: str = "k", entity_id: str = "b", **facts: Any) -> Notice:
    config = {"api_key": "hush-hush", "pin": 4711, "symbol": "BTC", "limit": 512, "ref": {"$secret": "name"}}
    return Notice(Event.CRASHED, Entity.of({"id": entity_id, "config": config}), key, NOW, facts)


def test_settings_have_all_events() -> None:
    assert tuple(Event) == EVENT_NAMES


def test_body_has_no_secret_of_the_config_and_no_password() -> None:
    lines = ["key hush-hush used", "pin 4711", "see https://u:pw@h/", "BTC 512 name"]
    body = notice(last_lines=lines, detail="hush-hush").body("bot-runner", "ann")

    assert body["last_lines"] == ["key ******** used", "pin ********", "see https://u:********@h/", "BTC 512 name"]
    assert body["detail"] == "********"
    assert (body["event"], body["entity_id"], body["owner"]) == ("bot.crashed", "b", "ann")


def test_texts_are_limited() -> None:
    body = notice(last_lines=["x" * 9000] * 100, detail="y" * 9000, exit_code=3, none=None).body("s", "ann")

    assert [len(line) for line in body["last_lines"]] == [500] * 20
    assert len(body["detail"]) == 2000
    assert (body["exit_code"], body["none"]) == (3, None)


def test_lone_surrogate_of_a_bots_output_can_be_sent() -> None:
    assert notice(detail="a\ud800b").body("s", "ann")["detail"] == "a?b"


def test_request_of_a_config_is_read() -> None:
    given = {"url": URL, "events": ["bot.held"], "secret": {"$secret": "hook"}}

    request = request_in({"notify": given})

    assert request is not None
    assert (request.url, request.secret, request.events) == (URL, {"$secret": "hook"}, ("bot.held",))
    assert request_in({}) is None


def test_request_without_events_is_for_all() -> None:
    request = request_in({"notify": {"url": URL}})

    assert request is not None
    assert (request.secret, tuple(request.events)) == (None, EVENT_NAMES)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("https://x", "must be an object"),
        ([], "must be an object"),
        ({}, "invalid url"),
        ({"url": "ftp://x"}, "invalid url"),
        ({"url": URL, "events": "bot.held"}, "events other than"),
        ({"url": URL, "events": ["bot.exploded"]}, "events other than"),
        ({"url": URL, "events": [{}]}, "events other than"),
        ({"url": URL, "secret": "literal"}, "as a reference"),
        ({"url": URL, "secret": {}}, "as a reference"),
    ],
)
def test_malformed_request_is_refused_and_names_the_field(value: object, said: str) -> None:
    with pytest.raises(RequestInvalid, match=said):
        request_in({"notify": value})


def test_id_is_that_of_the_event_for_a_receiver() -> None:
    ids = {id_of(notice(key, bot), to) for key in ("k", "l") for bot in ("b", "c") for to in ("all", "own")}

    assert len(ids) == 8
    assert id_of(notice(), "all") == id_of(notice(other=1), "all")
