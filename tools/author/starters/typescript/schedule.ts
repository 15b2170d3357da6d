// A scheduled bot: runs once each time that `config.schedule` is due.
//
// What `main` returns is stored in the history; an exception is a failed run.
interface Config {
  symbol: string;
  amount: number;
}

export async function main(id: string, config: Config): Promise<{ bought: number }> {
  console.log(`${id} buys ${config.amount} ${config.symbol}`);
  return { bought: config.amount };
}
