from datetime import UTC, datetime

import pytest

from libs.core.api.parameters import BadParameter, choice, flag, moment, text, values_of, whole

PARAMETERS = (
    whole("limit", "", least=1, most=100, default=10),
    text("prefix", ""),
    flag("failed", ""),
    choice("role", "", ["owning", "standby"]),
    moment("before", ""),
)


def test_missing_parameter_has_its_default() -> None:
    assert values_of(PARAMETERS, {}) == {"limit": 10, "prefix": None, "failed": False, "role": None, "before": None}


def test_given_parameter_is_parsed() -> None:
    query = {
        "limit": "100",
        "prefix": "../x",
        "failed": "true",
        "role": "standby",
        "before": "2026-01-31T12:00:00 02:00",
    }

    assert values_of(PARAMETERS, query) == {
        "limit": 100,
        "prefix": "../x",
        "failed": True,
        "role": "standby",
        "before": datetime(2026, 1, 31, 10, tzinfo=UTC),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "ten"),
        ("limit", "1" * 5000),
        ("limit", "٣"),
        ("prefix", ""),
        ("prefix", "x" * 8001),
        ("failed", "yes"),
        ("role", "boss"),
        ("before", "yesterday"),
        ("before", "2026-01-31T12:00:00"),
        ("unknown", "1"),
    ],
)
def test_invalid_parameter_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(BadParameter, match=f"'{name}'"):
        values_of(PARAMETERS, {name: value})
