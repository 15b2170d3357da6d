"""Results of backtests for display: metrics, plots and tables on a terminal and on a page."""
