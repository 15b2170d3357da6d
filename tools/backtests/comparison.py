"""Compare backtests: their metrics, their parameters that differ, and their equity curves. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tools.backtests.curves import kept_points
from tools.backtests.findings import Plot, Series, findings, is_date
from tools.backtests.results import Known

_EQUITY = re.compile(r"equity|balance|portfolio|capital|net.?worth|\bnav\b|wealth", re.IGNORECASE)
_OTHER = re.compile(r"benchmark|buy.{0,5}hold|drawdown|price", re.IGNORECASE)


@dataclass(frozen=True)
class Compared:
    """One backtest in a comparison.

    Attributes:
        detail: the reason of a failure; "" otherwise.
        parameters: its config with secrets masked, by keys with dots; empty when it is unknown.
        equity: its equity curve, named by its id; None without a plot.
        unit: of the curve.
    """

    id: str
    state: str
    detail: str
    parameters: Mapping[str, object]
    metrics: Mapping[str, object]
    equity: Series | None
    unit: str = ""

    @classmethod
    def of(cls, known: Known) -> "Compared":
        """Return what is compared of a backtest."""
        has_result = known.analysis is not None and known.failure is None
        found = findings(known.analysis) if has_result and known.analysis is not None else None
        equity, unit = equity_of(known.id, found.plots) if found is not None else (None, "")
        return cls(
            known.id,
            known.shown.text,
            (known.failure or "") if known.entity is None else "",
            known.parameters.flat() if known.parameters is not None else {},
            found.metrics if found is not None else {},
            equity,
            unit,
        )


def metric_names(compared: Sequence[Compared]) -> list[str]:
    """Return the names of all metrics, in the order of their first appearance."""
    return list(dict.fromkeys(name for one in compared for name in one.metrics))


def differing_parameters(compared: Sequence[Compared]) -> list[str]:
    """Return the keys whose values are not equal in all backtests with known parameters."""
    known = [one.parameters for one in compared if one.parameters]
    keys = dict.fromkeys(key for parameters in known for key in parameters)
    return [key for key in keys if len({repr(parameters.get(key)) for parameters in known}) > 1]


def equity_plot(compared: Sequence[Compared]) -> Plot | None:
    """Return one plot of all equity curves; None without any.

    Over time if all have dates, else over the number of the point.
    """
    curves = [one.equity for one in compared if one.equity is not None]
    if not curves:
        return None
    units = {one.unit for one in compared if one.equity is not None}
    if not all(_is_dated(curve) for curve in curves) and any(_is_dated(curve) for curve in curves):
        curves = [Series(curve.name, range(len(curve.ys)), curve.ys) for curve in curves]
    return Plot("Equity", units.pop() if len(units) == 1 else "", curves)


def equity_of(name: str, plots: Sequence[Plot]) -> tuple[Series | None, str]:
    """Return the line among *plots* that most likely is the equity curve, as *name*, and its unit.

    A plot or line with such a name is preferred, then the first line of the first plot.
    """
    candidates = [
        (_rank(plot, series), plot, series) for plot in plots for series in plot.series if series.kind == "line"
    ]
    if not candidates:
        return None, ""
    _, plot, series = min(candidates, key=lambda candidate: candidate[0])
    kept = kept_points(series.ys)
    return Series(name, [series.xs[i] for i in kept if i < len(series.xs)], [series.ys[i] for i in kept]), plot.unit


def _rank(plot: Plot, series: Series) -> int:
    """Return the order of preference, the best first."""
    names_itself = _EQUITY.search(series.name) is not None
    is_named = names_itself or _EQUITY.search(plot.title) is not None
    is_other = _OTHER.search(series.name) is not None or (not is_named and _OTHER.search(plot.title) is not None)
    return (0 if names_itself else 1 if is_named else 2) + (3 if is_other else 0)


def _is_dated(curve: Series) -> bool:
    return any(is_date(x) for x in curve.xs[:1])
