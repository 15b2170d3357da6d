"""What a backtest found, for people: metrics, plots and tables on a terminal and on a page."""
