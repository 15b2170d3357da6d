"""The shape of a series for a small graph. Pure."""

from collections.abc import Sequence

from libs.core.bot_metrics import MINUTES, MetricView

_BARS = "▁▂▃▄▅▆▇█"


def heights(values: Sequence[float]) -> list[float]:
    """Return each value's height from 0 (the least) to 1 (the greatest); one half if all are equal."""
    # Halves: the difference of two finite numbers may be infinite.
    halves = [value / 2 for value in values]
    least, greatest = min(halves, default=0.0), max(halves, default=0.0)
    if greatest == least:
        return [0.5] * len(halves)
    return [(half - least) / (greatest - least) for half in halves]


def line(metric: MetricView, width: float, height: float) -> str:
    """Return the points of an SVG polyline for the last hour, with the latest minute at the right; "" without any."""
    if not metric.points:
        return ""
    last = metric.points[-1].at
    found = []
    for point, share in zip(metric.points, heights([point.value for point in metric.points]), strict=True):
        minutes_ago = (last - point.at).total_seconds() / 60
        found.append(f"{width * (1 - minutes_ago / (MINUTES - 1)):.1f},{height * (1 - share):.1f}")
    # A line of one point is not drawn.
    return " ".join(found if len(found) > 1 else found * 2)


def bars(metric: MetricView) -> str:
    """Return the values of the last hour as characters, a space for a minute without one."""
    if not metric.points:
        return ""
    last = metric.points[-1].at
    shares = heights([point.value for point in metric.points])
    drawn = {
        int((last - point.at).total_seconds() // 60): _BARS[round(share * (len(_BARS) - 1))]
        for point, share in zip(metric.points, shares, strict=True)
    }
    return "".join(drawn.get(minutes_ago, " ") for minutes_ago in range(max(drawn), -1, -1))
