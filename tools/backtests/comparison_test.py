from typing import Any

import pytest

from tools.backtests.comparison import Compared, differing_parameters, equity_of, equity_plot, metric_names
from tools.backtests.comparison_page import comparison_page
from tools.backtests.findings import findings

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=y>"


def _compared(
    name: str, analysis: dict[str, Any], state: str = "finished", detail: str = "", **parameters: object
) -> Compared:
    found = findings(analysis)
    equity, unit = equity_of(name, found.plots)
    return Compared(name, state, detail, parameters, found.metrics, equity, unit)


def _plot(title: str, *lines: tuple[str, list[Any]], **more: Any) -> dict[str, Any]:
    return {"title": title, "data": [{"name": name, "y": ys, **more} for name, ys in lines]}


@pytest.mark.parametrize(
    "plots",
    [
        [_plot("Price", ("close", [9, 9])), _plot("Equity", ("strategy", [1, 2]))],
        [_plot("Result", ("close", [9, 9]), ("equity", [1, 2]))],
        [_plot("Equity", ("buy and hold", [9, 9]), ("strategy", [1, 2]))],
        [_plot("Drawdown", ("a", [9, 9])), _plot("Portfolio value", ("a", [1, 2]))],
        [_plot("Result", ("a", [1, 2]), ("b", [9, 9]))],
        [_plot("Equity", ("trades", [9, 9]), type="bar"), _plot("Something", ("a", [1, 2]))],
        [_plot("Price", ("price", [1, 2]))],
        {"equity": [1, 2], "price": [9, 9]},
    ],
)
def test_equity_curve_is_found_among_plots(plots: Any) -> None:
    series, _ = equity_of("b1", findings({"plots": plots}).plots)

    assert series is not None
    assert (series.name, list(series.ys)) == ("b1", [1.0, 2.0])


def test_long_curve_keeps_its_ends_and_peaks() -> None:
    ys: list[float | None] = [float(n % 7) for n in range(100_001)]
    ys[50_000], ys[70_001], ys[100_000] = 99.0, -99.0, 3.5
    ys[20_000:21_000] = [None] * 1000

    series, _ = equity_of("b1", findings({"plots": [_plot("Equity", ("x", ys))]}).plots)

    assert series is not None
    found = dict(zip(series.xs, series.ys, strict=True))
    assert len(found) <= 2100
    assert [found[n] for n in (0, 50_000, 70_001, 100_000)] == [0.0, 99.0, -99.0, 3.5]
    assert None in found.values()


def test_result_without_line_has_no_equity_curve() -> None:
    assert equity_of("b1", findings({"plots": [_plot("Equity", ("a", [1]), type="bar")]}).plots) == (None, "")
    assert equity_plot([_compared("b1", {})]) is None


def test_curves_with_and_without_dates_share_an_axis_of_points() -> None:
    dated = _compared("a", {"plots": [_plot("Equity", ("x", [1, 2]), x=["2024-01-01", "2024-01-02"])]})
    plain = _compared("b", {"plots": [_plot("Equity", ("x", [3, 4]))]})

    mixed, alike = equity_plot([dated, plain]), equity_plot([dated, dated])

    assert mixed is not None
    assert alike is not None
    assert [list(series.xs) for series in mixed.series] == [[0, 1], [0, 1]]
    assert list(alike.series[0].xs) == ["2024-01-01", "2024-01-02"]


def test_differing_parameters_and_all_metrics_are_named() -> None:
    one = _compared("a", {"metrics": {"sharpe": 1, "x": 2}}, fast=5, slow=20, only=1)
    two = _compared("b", {"metrics": {"y": 1, "sharpe": 2}}, fast=10, slow=20)

    assert differing_parameters([one, two, _compared("c", {})]) == ["fast", "only"]
    assert metric_names([one, two]) == ["sharpe", "x", "y"]


def test_page_has_all_curves_metrics_and_reasons_without_what_bots_could_inject() -> None:
    plots = [_plot(f"Equity{HOSTILE}", (HOSTILE, [1, 2]))]
    compared = [
        _compared(f"a{HOSTILE}", {"metrics": {HOSTILE: HOSTILE, "sharpe": 1.5}, "plots": plots}, **{HOSTILE: HOSTILE}),
        _compared("b", {"metrics": {"sharpe": 2.5}, "plots": plots}, fast=5),
        _compared("c", {}, state="failed", detail=HOSTILE),
    ]

    shown = comparison_page(compared)

    assert shown.count("<svg") == 1
    assert shown.count("<path") == 2
    assert "<td>2.5</td>" in shown
    assert "Without an equity curve: c" in shown
    assert "<script" not in shown
    assert "<img" not in shown
    assert not any(outside in shown for outside in ("http:", "https:", "<link", "@import", "url("))
