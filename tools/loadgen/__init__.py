"""A load generator: makes many small bots, backtests or schedules come and go, to watch the runtime under load."""
