from typing import Any

import pytest

from tools.author.config_check import config_findings

STRICT = {"type": "object", "properties": {"symbol": {"type": "string"}}, "additionalProperties": False}


def texts(schema: Any, config: dict[str, Any], kind: str = "bot") -> list[str]:
    found = config_findings({"schema": schema}, kind, config, where="a.json", described_in="bot.json")
    return [finding.text for finding in found]


def test_finding_names_field_origin_and_remedy() -> None:
    assert texts(STRICT, {"symbol": 1}) == [
        "a.json: config.symbol: must be of type string; correct the config, or the `schema` of bot.json"
    ]


def test_fields_of_the_runtime_need_no_place_in_the_schema() -> None:
    config = {"symbol": "A", "enabled": False, "resources": {"memoryMb": 128}, "schedule": "@hourly"}

    assert texts(STRICT, config) == []
    assert len(texts(STRICT, {**config, "size": 1})) == 1


def test_field_of_the_runtime_that_the_schema_names_is_checked() -> None:
    schema = {"allOf": [{"properties": {"timeout": {"type": "number"}}, "required": ["timeout"]}]}

    assert texts(schema, {"timeout": 5}) == []
    assert len(texts(schema, {"timeout": "soon"})) == 1


@pytest.mark.parametrize(("kind", "count"), [("bot", 1), ("backtest", 0)])
def test_each_entrypoint_has_its_own_schema(kind: str, count: int) -> None:
    schemas = {"bot": STRICT, "backtest": {"type": "object", "properties": {"days": {"type": "integer"}}}}

    assert len(texts(schemas, {"days": 5}, kind)) == count


def test_config_without_a_schema_is_not_compared() -> None:
    assert config_findings({}, "bot", {"a": 1}, where="a", described_in="b") == []


def test_unusable_schema_is_a_finding() -> None:
    (text,) = texts({"type": "nonsense"}, {})
    assert text.startswith("bot.json: schema: type is no JSON Schema")


def test_malformed_list_of_hosts_is_a_finding() -> None:
    (text,) = texts(None, {"egress": "api.example.com"})
    assert "config.egress" in text


def test_malformed_list_of_data_sets_is_a_finding() -> None:
    (text,) = texts(None, {"dataSets": ["../x"]})
    assert "config.dataSets has '../x'" in text
    assert texts(None, {"dataSets": ["prices"]}) == []


@pytest.mark.parametrize(
    ("notify", "reason"),
    [
        ({"url": "hooks.example.com"}, "has an invalid url"),
        ({"url": "https://hooks.example.com", "events": ["bot.crash"]}, "has events other than bot.crashed"),
        ({"url": "https://hooks.example.com", "secret": "hush"}, "must have its secret as a reference"),
    ],
)
def test_malformed_webhook_is_a_finding(notify: dict[str, Any], reason: str) -> None:
    (text,) = texts(STRICT, {"notify": notify})
    assert f"config.notify {reason}" in text
    assert texts(STRICT, {"notify": {"url": "https://hooks.example.com", "secret": {"$secret": "hook"}}}) == []
