"""The sample schedule counts right."""

import pytest

from tools.samples.rebalance import main as sample

PRICES = {"BTC": 100.0, "USD": 1.0}


def test_excess_is_sold_and_deficit_bought() -> None:
    targets = {"BTC": 50.0, "USD": 50.0}

    assert sample.orders_for(targets, {"BTC": 3, "USD": 100}, PRICES, 1) == ["sell 1.0000 BTC"]
    assert sample.orders_for(targets, {"BTC": 1, "USD": 300}, PRICES, 1) == ["buy 1.0000 BTC"]


def test_small_deviation_causes_no_order() -> None:
    assert sample.orders_for({"BTC": 50.0, "USD": 50.0}, {"BTC": 1.01, "USD": 99}, PRICES, 1) == []


def test_shares_are_percent_of_the_whole() -> None:
    assert sample.shares_of({"BTC": 1, "USD": 300}, PRICES) == {"BTC": 25.0, "USD": 75.0}


def test_targets_that_are_not_the_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 90 %"):
        sample.main("any", {"targets": {"BTC": 60, "USD": 30}})
