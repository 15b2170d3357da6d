// A bot: prints a price, which is made up, until it is stopped.
//
// The runtime calls `main(id, config, { signal })` once, and again after a crash, a new version or another config.
import { setTimeout as sleep } from "node:timers/promises";

interface Config {
  symbol: string;
  interval_seconds?: number;
}

export async function main(id: string, config: Config, { signal }: { signal: AbortSignal }): Promise<void> {
  console.log(`${id} watches ${config.symbol}`);
  try {
    for (let price = 100; ; price *= 1 + (Math.random() - 0.5) / 200) {
      console.log(`${config.symbol} ${price.toFixed(2)}`);
      await sleep((config.interval_seconds ?? 1) * 1000, undefined, { signal });
    }
  } finally {
    // A stop aborts `signal`; 30 seconds remain.
    console.log("stopping: cancel open orders here");
  }
}
