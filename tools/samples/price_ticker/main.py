"""A bot in Python: watches a price and places an order when it falls far enough below the price at the start.

The runtime calls `main(id, config)` once, and again after a crash, a new version or a new config. What is printed is
the bot's log. The price here is made up, so that the bot runs without a network and without keys.
"""

import random
import time
from collections.abc import Iterator
from typing import Any


def main(id: str, config: dict[str, Any]) -> dict[str, Any]:
    """Watch the price for ever."""
    symbol = config["symbol"]
    start_price = float(config.get("start_price", 100))
    buy_below = start_price * (1 - float(config.get("buy_below_percent", 1)) / 100)
    open_orders: list[str] = []
    print(f"watching {symbol}, buying below {buy_below:.2f}")
    try:
        for price in prices(start_price, seed=id):
            print(f"{symbol} {price:.2f}")
            if price < buy_below and not open_orders:
                open_orders.append(f"buy {symbol} at {price:.2f}")
                print(f"order placed: {open_orders[-1]}")
            time.sleep(float(config.get("interval_seconds", 1)))
    finally:
        # Stopping the bot raises an exception here; there are up to 30 seconds to leave the market in good order.
        print(f"stopping, {len(open_orders)} open orders cancelled")
    return {"orders": open_orders}


def prices(start: float, seed: str) -> Iterator[float]:
    """A random walk. A true bot would ask an exchange here."""
    random_source = random.Random(seed)
    price = start
    while True:
        price *= 1 + random_source.gauss(0, 0.001)
        yield price
