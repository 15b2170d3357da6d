"""A backtest in Python: is it worth being in the market only while the fast moving average is above the slow one?

The runtime calls `main(id, config)` once and keeps what it returns: metrics, plots and tables. Prices come from
`prices.csv` beside this file, so that it needs no network. Nothing but the standard library is used.
"""

import csv
import math
import statistics
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

DAYS_A_YEAR = 365  # of a market that never closes


@dataclass
class Trade:
    """One purchase and its sale."""

    bought_on: str
    bought_at: float
    sold_on: str = ""
    sold_at: float = 0.0

    @property
    def gain_percent(self) -> float:
        """What it brought, fees left out."""
        return (self.sold_at / self.bought_at - 1) * 100


def main(id: str, config: dict[str, Any]) -> dict[str, Any]:
    """Trade through the whole file and say how it went."""
    fast_days, slow_days = int(config.get("fast_days", 20)), int(config.get("slow_days", 50))
    if not 0 < fast_days < slow_days:
        raise ValueError(f"fast_days must be above 0 and below slow_days, not {fast_days} and {slow_days}")
    dates, prices = read_prices(Path(__file__).with_name("prices.csv"))
    print(f"{config.get('symbol', 'prices')}: {len(prices)} days from {dates[0]} to {dates[-1]}")
    fast, slow = moving_average(prices, fast_days), moving_average(prices, slow_days)
    cash = float(config.get("cash", 10_000))
    equity, trades = trade(dates, prices, fast, slow, cash, float(config.get("fee_percent", 0.1)) / 100)
    falls = drawdowns(equity)
    print(f"{len(trades)} trades, {cash:.0f} became {equity[-1]:.0f}")
    return {
        "metrics": metrics(equity, falls, prices, trades),
        "plots": [
            lines("Equity", "value", dates, {"strategy": equity, "buy and hold": held(prices, cash)}),
            lines("Drawdown", "percent", dates, {"drawdown": [fall * 100 for fall in falls]}),
            lines("Price", "price", dates, {"price": prices, f"{fast_days} days": fast, f"{slow_days} days": slow}),
        ],
        "tables": [
            {
                "title": "Trades",
                "data": [
                    {
                        "bought on": t.bought_on,
                        "bought at": round(t.bought_at, 2),
                        "sold on": t.sold_on,
                        "sold at": round(t.sold_at, 2),
                        "gain %": round(t.gain_percent, 2),
                    }
                    for t in trades
                ],
            }
        ],
    }


def read_prices(path: Path) -> tuple[list[str], list[float]]:
    """The dates and closing prices of a CSV with the columns `date` and `close`."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["date"] for row in rows], [float(row["close"]) for row in rows]


def moving_average(prices: list[float], days: int) -> list[float | None]:
    """The mean of the last *days* prices; None as long as there are not so many."""
    averages: list[float | None] = []
    total = 0.0
    for day, price in enumerate(prices):
        total += price - (prices[day - days] if day >= days else 0.0)
        averages.append(total / days if day >= days - 1 else None)
    return averages


def trade(
    dates: list[str], prices: list[float], fast: list[float | None], slow: list[float | None], cash: float, fee: float
) -> tuple[list[float], list[Trade]]:
    """Act at the close of the day after a crossing, as nobody can trade at a price that is still being made."""
    equity, trades = [cash], []
    units = 0.0
    for day in range(1, len(prices)):
        fast_before, slow_before = fast[day - 1], slow[day - 1]
        up = fast_before is not None and slow_before is not None and fast_before > slow_before
        last = day == len(prices) - 1
        if up and not units and not last:
            units, cash = cash * (1 - fee) / prices[day], 0.0
            trades.append(Trade(dates[day], prices[day]))
            print(f"{dates[day]} buy at {prices[day]:.2f}")
        elif units and (not up or last):
            units, cash = 0.0, units * prices[day] * (1 - fee)
            trades[-1].sold_on, trades[-1].sold_at = dates[day], prices[day]
            print(f"{dates[day]} sell at {prices[day]:.2f}, {trades[-1].gain_percent:+.1f} %")
        equity.append(cash + units * prices[day])
    return equity, trades


def held(prices: list[float], cash: float) -> list[float]:
    """What buying on the first day and never selling is worth."""
    return [cash * price / prices[0] for price in prices]


def drawdowns(equity: list[float]) -> list[float]:
    """How far each day is below the highest value before it: 0 or less, -0.2 for a fifth."""
    peak, falls = equity[0], []
    for value in equity:
        peak = max(peak, value)
        falls.append(value / peak - 1)
    return falls


def metrics(equity: list[float], falls: list[float], prices: list[float], trades: list[Trade]) -> dict[str, Any]:
    """The usual ratios, with nothing for money that lies idle. None where one makes no sense."""
    returns = [after / before - 1 for before, after in pairwise(equity)]
    years = len(returns) / DAYS_A_YEAR
    yearly = (equity[-1] / equity[0]) ** (1 / years) - 1
    deviation, downside = statistics.pstdev(returns), math.sqrt(statistics.fmean(min(r, 0.0) ** 2 for r in returns))
    mean, root = statistics.fmean(returns), math.sqrt(DAYS_A_YEAR)
    won = [t.gain_percent for t in trades if t.gain_percent > 0]
    lost = [-t.gain_percent for t in trades if t.gain_percent <= 0]
    return {
        "total_return_percent": round((equity[-1] / equity[0] - 1) * 100, 2),
        "buy_and_hold_percent": round((prices[-1] / prices[0] - 1) * 100, 2),
        "yearly_return_percent": round(yearly * 100, 2),
        "volatility_percent": round(deviation * root * 100, 2),
        "sharpe_ratio": ratio(mean * root, deviation),
        "sortino_ratio": ratio(mean * root, downside),
        "calmar_ratio": ratio(yearly, -min(falls)),
        "max_drawdown_percent": round(min(falls) * 100, 2),
        "trades": len(trades),
        "win_rate_percent": round(100 * len(won) / len(trades), 1) if trades else None,
        "profit_factor": ratio(sum(won), sum(lost)),
    }


def ratio(above: float, below: float) -> float | None:
    """Their quotient, rounded; None when there is nothing to divide by."""
    return round(above / below, 3) if below else None


def lines(title: str, unit: str, dates: list[str], series: dict[str, Any]) -> dict[str, Any]:
    """A plot as the platform shows it: lines as Plotly has them, in `data`."""
    return {
        "title": title,
        "data": [
            {"type": "scatter", "mode": "lines", "name": name, "x": dates, "y": values}
            for name, values in series.items()
        ],
        "layout": {"yaxis": {"title": {"text": unit}}},
        "config": {},
    }
