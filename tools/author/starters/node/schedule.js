// A scheduled bot: runs once each time that `config.schedule` is due.
//
// What `main` returns is stored in the history; an exception is a failed run.
"use strict";

async function main(id, config) {
  console.log(`${id} buys ${config.amount} ${config.symbol}`);
  return { bought: config.amount };
}

module.exports = { main };
