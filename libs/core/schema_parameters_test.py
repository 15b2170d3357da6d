from typing import Any

import pytest

from libs.core.schema_parameters import schema_of, unknown_parameters

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"fast": {"type": "integer"}, "risk": {"type": "object", "properties": {"max": {}}}},
}


@pytest.mark.parametrize(
    ("config", "unknown"),
    [
        ({"fast": 5}, []),
        ({}, []),
        ({"fsat": 5, "fast": 1, "slow": 2}, ["fsat", "slow"]),
        ({"risk": {"max": 1, "maxx": 2}}, ["risk.maxx"]),
        ({"risk": 5}, []),
        ({"enabled": False, "resources": {"memory_mb": 5}, "dataSets": ["prices"], "egress": []}, []),
        ({"misfire": "skip", "misfireGrace": 5, "retries": 1, "retryDelay": 1, "rollback": False}, []),
    ],
)
def test_keys_that_schema_does_not_describe_are_unknown(config: dict[str, Any], unknown: list[str]) -> None:
    assert unknown_parameters(config, SCHEMA) == unknown


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {},
        {"type": "object"},
        {"properties": "fast"},
        {"properties": {}},
        {"$ref": "#/$defs/config", "properties": {"fast": {}}},
        {"properties": {"fast": {}}, "additionalProperties": True},
        {"properties": {"fast": {}}, "additionalProperties": {"type": "number"}},
        {"properties": {"fast": {}}, "patternProperties": {"^x": {}}},
        {"anyOf": [5, "x", None]},
    ],
)
def test_nothing_is_unknown_to_schema_that_allows_or_describes_no_keys(schema: dict[str, Any] | None) -> None:
    assert unknown_parameters({"slow": 1}, schema) == []


@pytest.mark.parametrize("combined", ["allOf", "anyOf", "oneOf"])
def test_keys_of_combined_schemas_are_known(combined: str) -> None:
    schema = {"properties": {"fast": {}}, combined: [{"properties": {"slow": {}}}, {"properties": {"risk": 5}}]}

    assert unknown_parameters({"fast": 1, "slow": 1, "risk": {"a": 1}, "other": 1}, schema) == ["other"]


def test_closed_schema_flags_further_keys() -> None:
    assert unknown_parameters({"slow": 1}, {**SCHEMA, "additionalProperties": False}) == ["slow"]


def test_deeply_nested_schema_is_followed_to_a_limit() -> None:
    schema: dict[str, Any] = {"properties": {"leaf": {}}}
    config: dict[str, Any] = {"other": 1}
    for _ in range(500):
        schema, config = {"properties": {"a": schema}, "allOf": [schema]}, {"a": config}

    assert unknown_parameters(config, schema) == []


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        (SCHEMA, SCHEMA),
        ({"backtest": SCHEMA, "bot": {}}, SCHEMA),
        ({"backtest": False}, False),
        ({"bot": SCHEMA}, None),
        ({"properties": {"backtest": {}}, "backtest": SCHEMA}, {"properties": {"backtest": {}}, "backtest": SCHEMA}),
        ("schema.json", None),
        (None, None),
    ],
)
def test_schema_is_one_for_all_or_of_the_entrypoint(schema: object, found: object) -> None:
    assert schema_of({"schema": schema}, "backtest") == found
