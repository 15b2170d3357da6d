"""Selectors are found wherever an expression may have one."""

import pytest

from tests.monitoring.promql import Selector, selectors

A = (("job", "=", "x"),)


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("up", [Selector("up")]),
        ('up{job="x"} == 0', [Selector("up", A)]),
        ("sum by (a, b) (rate(x_total[5m]))", [Selector("x_total")]),
        ("sum(rate(x_total[5m])) by (a)", [Selector("x_total")]),
        ('a{job="x"} / on (b) group_left (c) d', [Selector("a", A), Selector("d")]),
        ("a unless on (x) (sum by (x) (b) > 0)", [Selector("a"), Selector("b")]),
        ("0 * the0:errors:ratio5m or vector(0)", [Selector("the0:errors:ratio5m")]),
        ("histogram_quantile(0.95, sum by (le) (rate(x_bucket[5m])))", [Selector("x_bucket")]),
        ("count(up) - 1e3", [Selector("up")]),
        ("max_over_time(a[10m:30s] offset 5m)", [Selector("a")]),
        ('a{b="} or c", d=~"e|f"}', [Selector("a", (("b", "=", "} or c"), ("d", "=~", "e|f")))]),
        ("16 * 1024 * 1024", []),
    ],
)
def test_selectors_are_found_and_nothing_else(expression: str, found: list[Selector]) -> None:
    assert selectors(expression) == found


def test_a_selector_is_written_as_it_was_read() -> None:
    text = 'x{a="1", b!~"2|3"}'

    assert str(selectors(text)[0]) == text
    assert str(selectors(text)[0].without("a")) == 'x{b!~"2|3"}'


@pytest.mark.parametrize(
    ("metric", "family"), [("x_total", "x"), ("x_seconds_bucket", "x_seconds"), ("x_bytes", "x_bytes")]
)
def test_a_metric_belongs_to_what_was_declared(metric: str, family: str) -> None:
    assert Selector(metric).family == family
