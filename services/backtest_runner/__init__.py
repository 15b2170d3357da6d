"""Runs each backtest once, and publishes its result, its output and a completion event."""
