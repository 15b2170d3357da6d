// The process that answers queries: runs the entrypoint `query` as a program, beside the bot or once. Beside the bot it
// serves HTTP until the process is ended. In a container of its own it answers one question and leaves the answer in a
// file, which this process hands to the init as a result.
"use strict";

const fs = require("fs");
const path = require("path");
const { RESULT_DESCRIPTOR, load, prepare } = require("./the0_bot_process.js");

const PORT = "9476";
const ANSWER = "/query/result.json";
// Where bots of the published SDK have their state.
const STATE = "/state/.the0-state";

// As the main module: programs check `require.main === module`.
function requiredAsMain(file) {
  return require("module")._load(file, null, true);
}

// At the end of the program, its answer is the result, with any exit code.
function handOver() {
  let text;
  try {
    text = fs.readFileSync(ANSWER);
  } catch {
    return;
  }
  const bytes = Buffer.concat([Buffer.from("R"), text]);
  for (let written = 0; written < bytes.length; ) written += fs.writeSync(RESULT_DESCRIPTOR, bytes, written);
  process.exitCode = 0;
}

const base = process.argv[2];
const spec = JSON.parse(fs.readFileSync(path.join(base, "spec", "spec.json"), "utf8"));
spec.script = spec.query;
const file = prepare(spec, fs.readFileSync(path.join(base, "spec", "config.json"), "utf8"));
process.env.ENTRYPOINT_TYPE = "query";
process.env.STATE_DIR ??= STATE;
if (spec.question) {
  process.env.QUERY_PATH = spec.question.path;
  process.env.QUERY_PARAMS = spec.question.parameters;
  process.on("exit", handOver);
} else {
  // Empty: an SDK serves, and refuses to change the state.
  Object.assign(process.env, { BOT_TYPE: "realtime", THE0_QUERY_PORT: PORT, QUERY_PATH: "" });
}
load(file, spec, requiredAsMain).catch((error) => {
  console.error(error);
  process.exit(1);
});
