// A bot: prints a price, which is made up, until it is stopped.
//
// The runtime calls `main(id, config, { signal })` once, and again after a crash, a new version or another config.
"use strict";

const { setTimeout: sleep } = require("node:timers/promises");

async function main(id, config, { signal }) {
  const { symbol, interval_seconds: seconds = 1 } = config;
  console.log(`${id} watches ${symbol}`);
  try {
    for (let price = 100; ; price *= 1 + (Math.random() - 0.5) / 200) {
      console.log(`${symbol} ${price.toFixed(2)}`);
      await sleep(seconds * 1000, undefined, { signal });
    }
  } finally {
    // A stop aborts `signal`; 30 seconds remain.
    console.log("stopping: cancel open orders here");
  }
}

module.exports = { main };
