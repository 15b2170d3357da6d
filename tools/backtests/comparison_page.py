"""An HTML page that compares backtests, without network access or scripts. Pure."""

from collections.abc import Sequence

from tools.backtests.comparison import Compared, differing_parameters, equity_plot, metric_names
from tools.backtests.findings import Table
from tools.backtests.page import document, figure, safe, table_section


def comparison_page(compared: Sequence[Compared]) -> str:
    """Return the whole page: the equity curves in one plot, metrics, and parameters that differ. All is escaped."""
    parts = [f"<h1>{len(compared)} backtests</h1>", '<p class="dim">Comparison</p>']
    parts += [
        f'<p class="failed"><b>{safe(one.id)}</b> {safe(one.state)}: {safe(one.detail)}</p>'
        for one in compared
        if one.detail
    ]
    plot = equity_plot(compared)
    parts.append(figure(plot) if plot is not None else '<p class="dim">No equity curve to plot.</p>')
    without = [one.id for one in compared if one.equity is None]
    if plot is not None and without:
        parts.append(f'<p class="dim">Without an equity curve: {safe(", ".join(without))}</p>')
    names = metric_names(compared)
    rows = [[one.id, one.state, *(one.metrics.get(name) for name in names)] for one in compared]
    parts.append(table_section(Table("Metrics", ["backtest", "state", *names], rows)))
    if keys := differing_parameters(compared):
        rows = [[one.id, *(one.parameters.get(key) for key in keys)] for one in compared]
        parts.append(table_section(Table("Parameters that differ", ["backtest", *keys], rows)))
    return document(f"Comparison of {len(compared)} backtests", parts)
