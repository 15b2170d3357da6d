"""The sample backtest counts as a textbook does."""

import pytest

from tools.samples.moving_average_crossover import main as sample


def test_an_average_is_of_the_last_days_only() -> None:
    assert sample.moving_average([1, 2, 3, 10], 2) == [None, 1.5, 2.5, 6.5]


def test_a_drawdown_is_below_the_highest_value_before() -> None:
    assert sample.drawdowns([100, 120, 90, 130]) == pytest.approx([0, 0, -0.25, 0])


def test_purchase_is_one_day_after_crossing_with_fees_for_both_trades() -> None:
    equity, [trade] = sample.trade(list("abcd"), [10, 10, 20, 20], [None, 2, 2, 2], [None, 1, 1, 1], 100, 0.0)
    assert (trade.bought_on, trade.sold_on, equity[-1]) == ("c", "d", 100)

    equity, _ = sample.trade(list("abcde"), [10, 10, 10, 20, 20], [2] * 5, [1] * 5, 100, 0.01)
    assert equity[-1] == pytest.approx(100 * 0.99 * 2 * 0.99)


def test_the_whole_of_it_is_what_the_platform_shows() -> None:
    result = sample.main("any", {"fast_days": 20, "slow_days": 50})

    assert result["metrics"]["trades"] > 3
    assert -100 < result["metrics"]["max_drawdown_percent"] < 0
    assert [plot["title"] for plot in result["plots"]] == ["Equity", "Drawdown", "Price"]
    assert {key for plot in result["plots"] for key in plot} == {"title", "data", "layout", "config"}
    assert all(trace["type"] == "scatter" for plot in result["plots"] for trace in plot["data"])
    [table] = result["tables"]
    assert (table["title"], len(table["data"])) == ("Trades", result["metrics"]["trades"])
    assert list(table["data"][0]) == ["bought on", "bought at", "sold on", "sold at", "gain %"]


def test_averages_that_cannot_cross_are_refused() -> None:
    with pytest.raises(ValueError, match="below slow_days"):
        sample.main("any", {"fast_days": 50, "slow_days": 20})
