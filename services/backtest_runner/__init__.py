"""Runs each backtest once, and hands over its result, its output and an event that it is done."""
