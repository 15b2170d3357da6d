"""The page of a backtest, from results in all known shapes."""

import base64
import json
import re
from array import array

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.backtest_runner.parameters import Parameters
from tests.support.faults.hostile_texts import corpus
from tools.backtests.findings import failure_of, findings
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


@pytest.mark.parametrize("title", [{"title": "Equity"}, {"layout": {"title": {"text": "Equity"}}}])
def test_a_plot_may_be_text(title: dict[str, object]) -> None:
    [found] = findings({"plots": [json.dumps({"data": [{"type": "bar", "x": [1, 2], "y": [3, 4]}], **title})]}).plots

    assert (found.title, found.series[0].kind, list(found.series[0].ys)) == ("Equity", "bar", [3.0, 4.0])


@pytest.mark.parametrize("name", sorted(corpus(200_000)))
def test_text_that_is_no_plot_is_left_out(name: str) -> None:
    assert findings({"plots": [corpus(200_000)[name].decode("latin-1")]}).plots == []


@pytest.mark.parametrize(
    ("code", "dtype", "values"),
    [("d", "f8", [1.5, 2.5]), ("f", "f4", [1.5, 2.5]), ("b", "i1", [-1, 2]), ("H", "u2", [1, 9])],
)
def test_arrays_that_plotly_packs_are_read(code: str, dtype: str, values: list[float]) -> None:
    packed = {"dtype": dtype, "bdata": base64.b64encode(array(code, values)).decode()}

    [found] = findings({"plots": [{"title": "P", "data": [{"x": packed, "y": packed}]}]}).plots

    assert (list(found.series[0].xs), list(found.series[0].ys)) == (values, values)


@pytest.mark.parametrize(
    "packed", [{"dtype": "f8", "bdata": "AA"}, {"dtype": "x", "bdata": ""}, {"bdata": "?"}, {"dtype": "f8", "bdata": 1}]
)
def test_an_array_that_cannot_be_read_is_left_out(packed: dict[str, object]) -> None:
    assert findings({"plots": [{"title": "P", "data": [{"y": packed}]}]}).plots == []


def test_the_web_fronts_table_is_a_title_and_a_list_of_objects() -> None:
    [found] = findings({"tables": [{"title": "T", "data": [{"a": 1, "b": 2}, {"b": 3, "c": 4}]}]}).tables

    assert (found.title, found.columns) == ("T", ["a", "b", "c"])
    assert found.rows == [[1, 2, None], [None, 3, 4]]


@pytest.mark.parametrize(
    ("analysis", "failure"),
    [
        ({"status": "error", "message": "m", "error": "m"}, "m"),
        ({"status": "failed", "error": "of an older runtime"}, "of an older runtime"),
        ({"status": "error", "message": "returned by main"}, None),
        ({"status": "error", "message": "m", "error": "m", "metrics": {}}, None),
        ({}, None),
    ],
)
def test_failure_differs_from_result_with_status(analysis: dict[str, object], failure: str | None) -> None:
    assert failure_of(analysis) == failure


def test_rows_may_be_objects_or_lists() -> None:
    one, two = findings({"tables": [[{"a": 1, "b": 2}], {"columns": ["a"], "rows": [[1]], "title": "T"}]}).tables

    assert (one.columns, one.rows) == (["a", "b"], [[1, 2]])
    assert (two.title, two.rows) == ("T", [[1]])


def test_the_page_needs_no_network_and_runs_nothing() -> None:
    shown = page("id", {"metrics": {"m": 1}, "plots": [FIGURE], "tables": [[{"a": 1}]]}, "output")

    assert "<svg" in shown
    assert not re.search(r"<script|<link|src=|https?://|url\(", shown)


def test_content_of_backtest_is_escaped_on_page() -> None:
    evil = "<script>alert(1)</script>"
    analysis = {
        "metrics": {evil: evil},
        "plots": [{"title": evil, "data": [{"name": evil, "x": [evil, evil], "y": [1, 2]}]}],
        "tables": [{"title": evil, "columns": [evil], "rows": [[evil]]}],
    }

    assert "<script" not in page(evil, analysis, evil)
    assert "<script" not in page(evil, {"status": "error", "message": evil, "error": evil}, evil)


def test_page_of_failed_backtest_shows_reason() -> None:
    assert "Failed:</b> no prices" in page("b", {"status": "error", "message": "no prices", "error": "no prices"}, "")


_WORDS = (
    "metrics plots tables results title data layout yaxis x y type mode name columns rows figure traces series date "
    "value text bdata dtype status error"
)
_NAMES = st.sampled_from(_WORDS.split())
_PLAIN = st.none() | st.booleans() | st.floats() | st.integers(-(10**400), 10**400) | st.text(max_size=3)
_DATES = st.sampled_from(["2024-01-01", "0001-01-01", "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+23:00", "bar"])
_ANY = st.recursive(
    _PLAIN | _DATES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=40,
)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(_NAMES, _ANY, max_size=4))
@example({"data": [9007199254740996.0]})
@example({"data": [9.9e299, 9.9e299 * (1 - 1e-16)]})
@example({"plots": [{"data": [{"x": ["2024-01-01", 1e300], "y": [1, 10**400]}]}]})
def test_any_result_has_a_page(analysis: dict[str, object]) -> None:
    assert page("b", analysis, "").startswith("<!doctype html>")
    assert page("b", {"plots": [analysis], "tables": [analysis]}, "").startswith("<!doctype html>")


def test_a_large_result_makes_a_page_of_bearable_size() -> None:
    rows = [{"day": number} for number in range(100_000)]

    assert "95,000 rows more" in (shown := page("b", {"tables": [{"title": "T", "data": rows}]}, ""))
    assert len(shown) < 500_000
    assert len(page("b", {"unusual": [rows]}, "")) < 1_000_000


def test_a_result_of_no_known_shape_is_shown_as_it_is() -> None:
    assert "unusual" in page("id", {"x": ["unusual"]}, "")


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_any_number_of_points_makes_a_page_of_bearable_size(size: int) -> None:
    spiky = [0.0] * size
    if size > 10:
        spiky[size // 2] = 99.0
    assert len(page("id", {"plots": [{"title": "p", "data": [{"y": spiky}]}]}, "")) < 100_000


def test_page_has_config_and_flags_unknown_keys() -> None:
    parameters = Parameters({"fast": 5, "risk": {"max<b>": "<script>x</script>"}}, ("fsat<i>",))

    shown = page("b1", {"metrics": {"sharpe": 1}}, "", parameters)

    assert "<td>fast</td><td>5</td>" in shown
    assert "<td>risk.max&lt;b&gt;</td><td>&lt;script&gt;x&lt;/script&gt;</td>" in shown
    assert "has no fsat&lt;i&gt;" in shown
