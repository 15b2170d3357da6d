// A backtest: buys once and holds, over prices that are made up.
//
// The runtime calls `main(id, config)` once. What it returns is the result.
interface Config {
  symbol: string;
  cash: number;
  days?: number;
}

export function main(id: string, config: Config) {
  const prices = Array.from({ length: config.days ?? 250 }, (_, day) => 100 + day / 10 + 5 * Math.sin(day / 7));
  const equity = prices.map((price) => (config.cash * price) / prices[0]);
  const last = equity[equity.length - 1];
  console.log(`${config.symbol}: ${prices.length} days`);
  return {
    metrics: { total_return_percent: Math.round((last / equity[0] - 1) * 10000) / 100 },
    plots: [{ title: "Equity", data: [{ type: "scatter", name: "buy and hold", y: equity }] }],
    tables: [{ title: "First days", data: prices.slice(0, 5).map((price, day) => ({ day, price })) }],
  };
}
