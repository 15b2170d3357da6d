"""A load generator: creates and removes many small bots, backtests or schedules."""
