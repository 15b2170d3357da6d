"""A schedule in Python: brings a portfolio back to its targets, each time that it runs.

The runtime calls `main(id, config)` whenever `config["schedule"]` is due, here every two seconds ("*/2 * * * * *": six
fields, seconds first). One run ends when `main` returns, and what it returns is kept in the history. An exception is a
failed run, which is tried again as often as `config["retries"]` says.
"""

import random
import time
from typing import Any

PRICES = {"BTC": 50_000.0, "ETH": 3_000.0, "USD": 1.0}
UNITS = {"BTC": 1.2, "ETH": 10.0, "USD": 10_000.0}


def main(id: str, config: dict[str, Any]) -> dict[str, Any]:
    """Compare what there is with what there should be, once."""
    targets = {asset: float(percent) for asset, percent in config["targets"].items()}
    if abs(sum(targets.values()) - 100) > 0.01:
        raise ValueError(f"the targets add up to {sum(targets.values()):g} %, not to 100 %")
    prices = current_prices(seed=time.time())
    shares = shares_of(UNITS, prices)
    orders = orders_for(targets, UNITS, prices, float(config.get("tolerance_percent", 1)))
    print(", ".join(f"{asset} {share:.1f} %" for asset, share in shares.items()), flush=True)
    for order in orders:
        print(order, flush=True)
    return {"shares": shares, "orders": orders}


def current_prices(seed: float) -> dict[str, float]:
    """Prices that move a little. A true bot would ask an exchange here."""
    source = random.Random(seed)
    return {asset: price * (1 if asset == "USD" else 1 + source.gauss(0, 0.05)) for asset, price in PRICES.items()}


def shares_of(units: dict[str, float], prices: dict[str, float]) -> dict[str, float]:
    """How much of the whole value each asset is, in percent."""
    values = {asset: amount * prices[asset] for asset, amount in units.items()}
    total = sum(values.values())
    return {asset: round(100 * value / total, 2) for asset, value in values.items()}


def orders_for(
    targets: dict[str, float], units: dict[str, float], prices: dict[str, float], tolerance_percent: float
) -> list[str]:
    """What to buy and sell, where a share is off by more than the tolerance. USD is what the others are paid with."""
    total = sum(amount * prices[asset] for asset, amount in units.items())
    orders = []
    for asset, target in targets.items():
        off = target / 100 * total - units.get(asset, 0.0) * prices[asset]
        if asset != "USD" and abs(off) > tolerance_percent / 100 * total:
            orders.append(f"{'buy' if off > 0 else 'sell'} {abs(off) / prices[asset]:.4f} {asset}")
    return orders
