"""What people see of a backtest, from results in all the shapes that backtests return."""

import re

import pytest

from tools.backtests.findings import findings
from tools.backtests.page import page

FIGURE = {
    "data": [{"type": "scatter", "name": "equity", "x": ["2024-01-01", "2024-01-02"], "y": [1.0, None]}],
    "layout": {"title": {"text": "Equity"}, "yaxis": {"title": {"text": "USD"}}},
}


@pytest.mark.parametrize("wrap", [lambda inner: inner, lambda inner: {"status": "ok", "results": inner}])
def test_findings_are_read_from_both_shapes(wrap: object) -> None:
    found = findings(wrap({"metrics": {"sharpe": 1.5, "risk": {"drawdown": -0.2}}, "plots": [FIGURE], "tables": []}))  # type: ignore[operator]

    assert found.metrics == {"sharpe": 1.5, "risk.drawdown": -0.2}
    assert (found.plots[0].title, found.plots[0].unit) == ("Equity", "USD")
    assert found.plots[0].series[0].ys == [1.0, None]


@pytest.mark.parametrize(
    "plot",
    [
        [1, 2, 3],
        [[1, 1.0], [2, 2.0], [3, 3.0]],
        [{"date": "2024-01-01", "value": 1}, {"date": "2024-01-02", "value": 2}, {"date": "2024-01-03", "value": 3}],
        {"title": "Line", "series": [{"name": "a", "data": [1, 2, 3]}]},
        {"title": "Line", "data": [1, 2, 3]},
        {"figure": {"data": [{"y": [1, 2, 3]}]}},
        {"type": "line", "x": [1, 2, 3], "y": [1, 2, 3]},
    ],
)
def test_a_plain_series_is_a_plot(plot: object) -> None:
    [found] = findings({"plots": [plot]}).plots

    assert list(found.series[0].ys) == [1.0, 2.0, 3.0]


def test_rows_may_be_objects_or_lists() -> None:
    one, two = findings({"tables": [[{"a": 1, "b": 2}], {"columns": ["a"], "rows": [[1]], "title": "T"}]}).tables

    assert (one.columns, one.rows) == (["a", "b"], [[1, 2]])
    assert (two.title, two.rows) == ("T", [[1]])


def test_the_page_needs_no_network_and_runs_nothing() -> None:
    shown = page("id", {"metrics": {"m": 1}, "plots": [FIGURE], "tables": [[{"a": 1}]]}, "output")

    assert "<svg" in shown
    assert not re.search(r"<script|<link|src=|https?://|url\(", shown)


def test_what_a_backtest_wrote_is_text_on_the_page() -> None:
    evil = "<script>alert(1)</script>"
    analysis = {
        "metrics": {evil: evil},
        "plots": [{"title": evil, "data": [{"name": evil, "x": [evil, evil], "y": [1, 2]}]}],
        "tables": [{"title": evil, "columns": [evil], "rows": [[evil]]}],
    }

    assert "<script" not in page(evil, analysis, evil)
    assert "<script" not in page(evil, {"status": "failed", "error": evil}, evil)


def test_a_result_of_no_known_shape_is_shown_as_it_is() -> None:
    assert "unusual" in page("id", {"x": ["unusual"]}, "")


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_any_number_of_points_makes_a_page_of_bearable_size(size: int) -> None:
    spiky = [0.0] * size
    if size > 10:
        spiky[size // 2] = 99.0
    assert len(page("id", {"plots": [{"title": "p", "data": [{"y": spiky}]}]}, "")) < 100_000
