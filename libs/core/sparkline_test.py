"""The shape of a series."""

from datetime import UTC, datetime, timedelta

import pytest

from libs.core.bot_metrics import MetricPoint, MetricView
from libs.core.sparkline import bars, heights, line

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def metric(**values: float) -> MetricView:
    """A metric with these values at minutes m0, m1 and so on."""
    points = [MetricPoint(NOON + timedelta(minutes=int(name[1:])), value) for name, value in values.items()]
    return MetricView("pnl", "pnl", 1.0, NOON, {}, points)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], []), ([5], [0.5]), ([2, 2], [0.5, 0.5]), ([0, 5, 10], [0, 0.5, 1]), ([-1.7e308, 1.7e308], [0, 1])],
)
def test_height_is_relative_to_the_least_and_the_greatest(values: list[float], expected: list[float]) -> None:
    assert heights(values) == expected


def test_line_spans_an_hour_up_to_the_latest_minute() -> None:
    assert line(metric(m0=0, m59=10), 590, 20) == "0.0,20.0 590.0,0.0"
    assert line(metric(m58=0, m59=10), 590, 20) == "580.0,20.0 590.0,0.0"


def test_one_point_is_a_dot_and_none_is_nothing() -> None:
    assert line(metric(m7=3), 590, 20) == "590.0,10.0 590.0,10.0"
    assert line(metric(), 590, 20) == bars(metric()) == ""


def test_bars_leave_minutes_without_a_value_empty() -> None:
    assert bars(metric(m0=0, m1=10, m4=5)) == "▁█  ▅"
