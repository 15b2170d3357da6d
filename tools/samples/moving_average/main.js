// A bot in Node: compares a short and a long moving average of a price and says when they cross.
//
// The runtime calls `main(id, config, { signal })` once, and again after a crash, a new version or a new config. What
// is printed is the bot's log. The price here is made up, so that the bot runs without a network and without keys.
"use strict";

const { setTimeout: sleep } = require("node:timers/promises");

async function main(id, config, { signal }) {
  const { symbol, short, long, interval_seconds: interval = 1 } = config;
  const seen = [];
  let trend = "flat";
  console.log(`watching ${symbol}, averages of ${short} and ${long} prices`);
  try {
    for (const price of prices(config.start_price ?? 100)) {
      seen.push(price);
      if (seen.length > long) seen.shift();
      const now = average(seen.slice(-short)) > average(seen) ? "rising" : "falling";
      console.log(`${symbol} ${price.toFixed(2)} ${now}`);
      if (now !== trend && seen.length === long) console.log(`crossed: ${symbol} is ${now}`);
      trend = now;
      await sleep(interval * 1000, undefined, { signal });
    }
  } finally {
    // Stopping the bot aborts `signal`; there are up to 30 seconds to leave the market in good order.
    console.log("stopping, nothing to cancel");
  }
}

// A random walk. A true bot would ask an exchange here.
function* prices(start) {
  for (let price = start; ; price *= 1 + (Math.random() - 0.5) / 200) yield price;
}

function average(numbers) {
  return numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
}

module.exports = { main };
