"""A backtest: buys once and holds, over prices that are made up.

The runtime calls `main(id, config)` once. What it returns is the result.
"""

import random


def main(id, config):
    prices = [100.0]
    source = random.Random(1)
    while len(prices) < config.get("days", 250):
        prices.append(prices[-1] * (1 + source.gauss(0.0005, 0.01)))
    equity = [config["cash"] * price / prices[0] for price in prices]
    print(f"{config['symbol']} from {prices[0]:.2f} to {prices[-1]:.2f}")
    return {
        "metrics": {"total_return_percent": round((equity[-1] / equity[0] - 1) * 100, 2)},
        "plots": [{"title": "Equity", "data": [{"type": "scatter", "name": "buy and hold", "y": equity}]}],
        "tables": [{"title": "First days", "data": [{"day": d, "price": p} for d, p in enumerate(prices[:5])]}],
    }
