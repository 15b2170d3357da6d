"""A bot: prints a price, which is made up, until it is stopped.

The runtime calls `main(id, config)` once, and again after a crash, a new version or another config.
"""

import random
import time


def main(id, config):
    symbol, price = config["symbol"], 100.0
    print(f"{id} watches {symbol}")
    try:
        while True:
            price *= 1 + random.gauss(0, 0.001)
            print(f"{symbol} {price:.2f}")
            time.sleep(config.get("interval_seconds", 1))
    finally:
        # A stop raises an exception in `main`; 30 seconds remain.
        print("stopping: cancel open orders here")
