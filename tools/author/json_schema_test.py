from typing import Any

import pytest

from tools.author.json_schema import SchemaInvalid, Violation, violations

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["symbol", "size"],
    "properties": {
        "symbol": {"type": "string", "pattern": "^[A-Z]+$"},
        "size": {"type": "number", "exclusiveMinimum": 0},
        "key": {"type": "string", "minLength": 10},
        "legs": {"type": "array", "items": {"type": "object", "properties": {"side": {"enum": ["buy", "sell"]}}}},
    },
    "additionalProperties": False,
}
GOOD = {"symbol": "BTC", "size": 1}


def test_matching_config_has_no_violation() -> None:
    assert violations(GOOD, SCHEMA) == []


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"size": "much"}, "size", "must be of type number"),
        ({"size": 0}, "size", "must be greater than 0"),
        ({"symbol": "btc"}, "symbol", "must match the pattern ^[A-Z]+$"),
        ({"symbl": "BTC"}, "", "has the unknown field 'symbl' (meant 'symbol'?)"),
        ({"legs": [{}, {"side": "hold"}]}, "legs[1].side", "must be one of buy, sell"),
    ],
)
def test_violation_names_field_and_limit(change: dict[str, Any], path: str, reason: str) -> None:
    assert violations({**GOOD, **change}, SCHEMA) == [Violation(path, reason)]


def test_each_missing_field_is_named_once() -> None:
    assert violations({}, SCHEMA) == [Violation("", "lacks 'symbol'"), Violation("", "lacks 'size'")]


def test_value_of_a_field_is_never_shown() -> None:
    found = violations({**GOOD, "key": "s3cret", "legs": "s3cret"}, SCHEMA)

    assert [one.path for one in found] == ["key", "legs"]
    assert "s3cret" not in str(found)


@pytest.mark.parametrize("reference", [{"$secret": "binance"}, {"$sealed": "v1.x"}])
def test_reference_to_a_secret_matches_any_type(reference: dict[str, str]) -> None:
    assert violations({"symbol": reference, "size": reference, "key": reference}, SCHEMA) == []


def test_what_contains_a_reference_is_still_checked() -> None:
    found = violations({"symbol": {"$secret": "a"}, "sise": 1}, SCHEMA)

    assert [one.reason for one in found] == ["lacks 'size'", "has the unknown field 'sise' (meant 'size'?)"]


def test_choices_are_listed_when_none_matches() -> None:
    (found,) = violations({"a": True}, {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}})

    assert found == Violation("a", "matches none of the choices: must be of type null, or must be of type string")


@pytest.mark.parametrize("schema", [True, {}, {"$schema": "https://example.com/unknown"}])
def test_schema_without_rules_allows_everything(schema: Any) -> None:
    assert violations({"a": 1}, schema) == []


def test_schema_false_allows_nothing() -> None:
    assert violations({}, False) == [Violation("", "is not allowed")]


@pytest.mark.parametrize(
    "draft", ["http://json-schema.org/draft-07/schema#", "http://json-schema.org/draft-04/schema#"]
)
def test_schema_is_read_by_the_rules_of_its_draft(draft: str) -> None:
    schema = {
        "$schema": draft,
        "definitions": {"n": {"type": "integer"}},
        "properties": {"a": {"$ref": "#/definitions/n"}},
    }

    assert violations({"a": "x"}, schema) == [Violation("a", "must be of type integer")]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "nonsense"}, "type is no JSON Schema"),
        ({"properties": {"a": {"minimum": "low"}}}, "properties.a.minimum is no JSON Schema"),
        ({"$ref": "https://example.com/other.json"}, "a \\$ref cannot be resolved"),
        ({"$ref": "#/definitions/gone"}, "a \\$ref cannot be resolved"),
        ({"$ref": "#"}, "a \\$ref cannot be resolved"),
    ],
)
def test_schema_that_cannot_be_used_is_reported(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaInvalid, match=message):
        violations({"a": 1}, schema)
