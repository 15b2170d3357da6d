from typing import Any

import pytest

from tools.backtests.columns import ordered, similar, value_in


@pytest.mark.parametrize(
    ("name", "value"),
    [("sharpe", 1.5), ("Sharpe", 1.5), ("total_return", 3), ("Total Return", 3), ("risk.max", 9), ("max", None)],
)
def test_value_is_found_regardless_of_case_and_separators(name: str, value: object) -> None:
    assert value_in(name, {"sharpe": 1.5, "Total-Return": 3}, {"sharpe": 0, "risk.max": 9}) == value


def test_exact_name_in_a_later_source_is_preferred() -> None:
    assert value_in("a_b", {"ab": 1}, {"a_b": 2}) == 2


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Sharpe", ["sharpe_ratio"]),
        ("return", ["total_return_percent", "yearly_return_percent"]),
        ("shrape_ratio", ["sharpe_ratio"]),
        ("fats", ["fast"]),
        ("drawdown", []),
        ("_", []),
    ],
)
def test_similar_names_contain_the_name_or_differ_in_few_letters(name: str, found: list[str]) -> None:
    assert similar(name, {"sharpe_ratio", "total_return_percent", "yearly_return_percent", "fast"}) == found


@pytest.mark.parametrize(
    ("lowest_first", "order"),
    [(False, [3, 2.5, True, -1, "b", "a", None, float("nan"), [9]]), (True, [-1, True, 2.5, 3, "a", "b"])],
)
def test_rows_are_ordered_with_missing_values_last(lowest_first: bool, order: list[Any]) -> None:
    values: list[Any] = [None, "a", -1, float("nan"), 3, True, [9], 2.5, "b"]
    rows = [{"value": value} for value in values]

    found = [row["value"] for row in ordered(rows, values, lowest_first=lowest_first)]

    assert found[:6] == order[:6]
    assert repr(found[6:]) == repr([None, float("nan"), [9]])
