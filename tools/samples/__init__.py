"""Samples to copy: two bots, a backtest and a schedule, each a folder with a `bot.json` and its code."""
