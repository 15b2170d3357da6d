"""Parsing of events: forms, cases, unknown fields, and errors that name the field."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.core.events.payload import PayloadRejected, Place, read_event
from libs.core.store.history import EntityEvent, EventKind

PLACE = Place(published_at=1_700_000_000_000_000_000, stream_created_at=1_600_000_000_000_000_000, sequence=7)
CUSTOM = {
    "config": {"name": "grid", "runtime": "python3.11", "entrypoints": {"bot": "main.py"}, "schema": {"Type": "x"}},
    "createdAt": "2023-11-14T22:13:00Z",
    "updatedAt": "2023-11-14T22:13:19.123456789+00:00",
    "filePath": "a/b",
    "version": "1.2.0",
}
EVENT = {"id": "b1", "config": {"Pair": "BTC/USD", "n": 1}, "custom": CUSTOM}


def read(payload: object, kind: EventKind = EventKind.CREATED, **headers: str) -> EntityEvent:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return read_event(kind, data, headers, PLACE)


def test_the_plain_form_is_read_as_it_is() -> None:
    event = read(EVENT)
    assert (event.id, event.content) == ("b1", {"config": EVENT["config"], "custom": CUSTOM})
    assert (event.stamp.made_at, event.stamp.made_by - event.stamp.made_at) == (1_699_999_999_123_456_789, 1)
    assert (event.stamp.published_at, event.stamp.stream, event.stamp.sequence) == (
        PLACE.published_at,
        PLACE.stream_created_at,
        PLACE.sequence,
    )


def test_wrapped_form_gives_same_event() -> None:
    wrapped = {
        "type": "bot.created",
        "entity_id": "b1",
        "data": {**EVENT, "topicName": "the0.bot.created"},
        "timestamp": "2023-11-14T22:13:20Z",
    }
    assert read(wrapped) == read(EVENT)


def test_the_wrapped_form_may_name_the_entity_outside_only() -> None:
    assert read({"entity_id": "b1", "data": {"config": {}}}, EventKind.DELETED).id == "b1"


def test_a_plain_event_with_a_field_named_data_is_not_unwrapped() -> None:
    assert read({**EVENT, "data": {"id": "other"}}).content["data"] == {"id": "other"}


def test_capitalised_keys_give_same_event() -> None:
    capitalised = {
        "ID": "b1",
        "Config": EVENT["config"],
        "Custom": {
            "Config": CUSTOM["config"],
            "CreatedAt": CUSTOM["createdAt"],
            "UpdatedAt": CUSTOM["updatedAt"],
            "FilePath": CUSTOM["filePath"],
            "Version": CUSTOM["version"],
        },
    }
    assert read(capitalised) == read(EVENT)


@given(st.lists(st.booleans(), min_size=6, max_size=6))
def test_top_level_keys_match_in_any_case(upper: list[bool]) -> None:
    cased = {_cased(name, upper): value for name, value in EVENT.items()}
    assert read(cased) == read(EVENT)


def _cased(name: str, upper: list[bool]) -> str:
    return "".join(c.upper() if up else c for c, up in zip(name, upper, strict=False)) + name[len(upper) :]


def test_the_exact_spelling_wins_over_another_case() -> None:
    assert read({"ID": "no", **EVENT, "Id": "no"}).id == "b1"


@pytest.mark.parametrize("name", ["enabled", "Enabled", "ENABLED"])
def test_enabled_beside_the_config_is_kept_under_one_name(name: str) -> None:
    assert read({**EVENT, name: False}).content["enabled"] is False
    wrapped = {"type": "bot.created", "entity_id": "b1", "data": {**EVENT, name: False}}
    assert read(wrapped).content["enabled"] is False


def test_keys_inside_configs_keep_their_case() -> None:
    assert read(EVENT).content["config"] == {"Pair": "BTC/USD", "n": 1}


def test_unknown_fields_are_kept_at_every_level() -> None:
    event = read({**EVENT, "owner": "u1", "custom": {**CUSTOM, "stars": 5}})
    assert event.content["owner"] == "u1"
    assert event.content["custom"]["stars"] == 5  # type: ignore[index]


def test_a_deletion_needs_only_an_id_and_is_stamped_by_the_stream() -> None:
    event = read({"id": "b1", "config": {}}, EventKind.DELETED)
    assert (event.id, event.content, event.stamp.made_at) == ("b1", {}, PLACE.published_at)


@pytest.mark.parametrize("written", [None, "", "0001-01-01T00:00:00Z"])
def test_without_a_time_of_its_own_an_event_was_made_when_published(written: str | None) -> None:
    event = read({**EVENT, "custom": {"updatedAt": written}}, EventKind.UPDATED)
    assert event.stamp.made_at == PLACE.published_at


def test_a_creation_without_an_update_time_has_its_creation_time() -> None:
    event = read({**EVENT, "custom": {"createdAt": "1970-01-01T00:00:01Z"}})
    assert event.stamp.made_at == 1_000_000_000


def test_trace_headers_of_the_message_are_kept() -> None:
    event = read(EVENT, Traceparent="00-ab-cd-01", tracestate="x=1", other="y")
    assert event.trace == {"traceparent": "00-ab-cd-01", "tracestate": "x=1"}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in EVENT.items() if key != name}


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b"[" * 200_000, None),
        (b'{"id": "x", "config": {"n": NaN}, "custom": {}}', None),
        ([], None),
        ("text", None),
        (without("id"), "id"),
        ({**EVENT, "id": ""}, "id"),
        ({**EVENT, "id": 5}, "id"),
        ({**EVENT, "id": "x" * 1025}, "id"),
        ({**EVENT, "config": "text"}, "config"),
        (without("custom"), "custom"),
        ({**EVENT, "custom": []}, "custom"),
        ({**EVENT, "custom": {**CUSTOM, "config": 1}}, "custom.config"),
        ({**EVENT, "custom": {**CUSTOM, "filePath": 1}}, "custom.filePath"),
        ({**EVENT, "custom": {**CUSTOM, "gcsPath": "s3://x/y"}}, "custom.gcsPath"),
        ({**EVENT, "custom": {**CUSTOM, "sha256": 5}}, "custom.sha256"),
        ({**EVENT, "custom": {**CUSTOM, "gcsPath": "gs://x"}}, "custom.gcsPath"),
        ({**EVENT, "custom": {**CUSTOM, "version": 1.5}}, "custom.version"),
        ({**EVENT, "custom": {**CUSTOM, "updatedAt": "soon"}}, "custom.updatedAt"),
        ({**EVENT, "custom": {**CUSTOM, "updatedAt": 17}}, "custom.updatedAt"),
        ({**EVENT, "custom": {"config": {"runtime": ["python"]}}}, "custom.config.runtime"),
        ({**EVENT, "custom": {"config": {"entrypoints": {"bot": 1}}}}, "custom.config.entrypoints.bot"),
        ({"entity_id": "x", "data": "text"}, "data"),
        ({"data": {"custom": {}}}, "id"),
    ],
)
def test_invalid_payload_is_rejected_with_field(payload: object, field: str | None) -> None:
    with pytest.raises(PayloadRejected) as rejected:
        read(payload)
    assert rejected.value.field == field
    assert (field or "payload") in str(rejected.value)


@given(st.binary(max_size=60))
def test_no_bytes_whatever_raise_anything_else(payload: bytes) -> None:
    assert isinstance(outcome(payload), EntityEvent | PayloadRejected)


def outcome(payload: bytes) -> EntityEvent | Exception:
    try:
        return read(payload)
    except Exception as error:  # noqa: BLE001 - the test says which it may be
        return error
