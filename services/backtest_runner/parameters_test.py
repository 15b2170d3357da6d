from typing import Any

import pytest

from libs.core.secrets.config_masks import MASK
from libs.core.store.entities import Entity
from services.backtest_runner.parameters import Parameters

SCHEMA: dict[str, Any] = {"backtest": {"properties": {"fast": {}, "risk": {"properties": {"max": {}}}}}}


def _of(config: dict[str, Any], schema: object = None) -> Parameters:
    return Parameters.of(Entity.of({"id": "b", "config": config, "custom": {"config": {"schema": schema}}}))


def test_parameters_keep_values_and_mask_secrets_through_storage() -> None:
    found = _of({"fast": 5, "risk": {"max": 0.1}, "api_key": "abc", "url": "https://u:pw@host/x"}, SCHEMA)

    stored = found.to_text()
    assert stored is not None
    assert "abc" not in stored
    assert ":pw@" not in stored
    assert Parameters.from_text(stored) == found
    assert found.flat() == {"fast": 5, "risk.max": 0.1, "api_key": MASK, "url": f"https://u:{MASK}@host/x"}


def test_keys_outside_schema_are_named() -> None:
    found = _of({"fsat": 5, "risk": {"min": 1}}, SCHEMA)

    assert found.unknown == ("fsat", "risk.min")
    assert found.warning == "the description's schema has no fsat, risk.min"
    assert _of({"fast": 5}, SCHEMA).warning == ""
    assert _of({"fsat": 5}).warning == ""


def test_unusual_values_are_stored_and_large_ones_are_left_out() -> None:
    assert Parameters.from_text(_of({"a": "\udc80", "b": float("nan"), "c": [1, {}]}).to_text()) is not None
    assert _of({"a": "x" * 70_000}).to_text() is None


@pytest.mark.parametrize("text", [None, "", "[]", "5", '{"config": 5, "unknown": []}', '{"config": {}}', "{" * 500])
def test_text_that_is_none_is_no_parameters(text: str | None) -> None:
    assert Parameters.from_text(text) is None
