// The bot's own process: loads its entrypoint, calls `main(id, config, { signal })` and hands what comes of it to the
// supervisor, over descriptor 3.
"use strict";

const fs = require("fs");
const path = require("path");

const RESULT_DESCRIPTOR = 3;
const TERMINATED = 128 + 15;

// The bot cannot be run as it is; told without a stack, which would show only our own frames.
class BotError extends Error {}

class BotProcess {
  constructor(spec, configText) {
    this.spec = spec;
    this.configText = configText;
    this.abort = new AbortController();
    this.signalTaken = false;
    this.settled = false;
    this.terminating = false;
  }

  async run() {
    this.prepare();
    process.on("SIGTERM", () => this.terminate());
    process.on("uncaughtException", (error) => {
      if (process.listenerCount("uncaughtException") === 1) this.fail(error);
    });
    process.on("beforeExit", () => {
      if (!this.settled) this.fail(new BotError("main never finished: nothing is left that it could wait for"));
    });
    try {
      const config = JSON.parse(this.configText);
      this.exports = await load(path.join(this.spec.mount, this.spec.script), this.spec);
      this.succeed(await mainOf(this.exports, this.spec.script)(this.spec.id, config, this.context()));
    } catch (error) {
      this.fail(error);
    }
  }

  // The process as a bot expects to find it.
  prepare() {
    const { spec } = this;
    const prefix = spec.entrypoint.toUpperCase();
    process.env[`${prefix}_ID`] = spec.id.replaceAll("\0", "");
    process.env[`${prefix}_CONFIG`] = this.configText;
    process.env.ENTRYPOINT_TYPE = spec.entrypoint;
    process.env.SCRIPT_PATH = spec.script;
    process.env.CODE_MOUNT_DIR = spec.mount;
    process.env.PYTHONDONTWRITEBYTECODE = "1";
    if (spec.traceparent) process.env.TRACEPARENT = spec.traceparent;
    process.argv = [process.argv[0], path.join(spec.mount, spec.script)];
    process.chdir(spec.mount);
    // Written when it is printed: otherwise process.exit() would cut off what the pipe had no room for.
    for (const stream of [process.stdout, process.stderr]) stream._handle?.setBlocking?.(true);
    try {
      // Within the container the supervisor comes first, for the CPU as for the memory.
      require("os").setPriority(5);
      fs.writeFileSync("/proc/self/oom_score_adj", "500");
    } catch {
      // Not to be had everywhere, and not needed.
    }
  }

  context() {
    const bot = this;
    return {
      // Read by bots that watch it; those that do not are ended for them.
      get signal() {
        bot.signalTaken = true;
        return bot.abort.signal;
      },
    };
  }

  async terminate() {
    if (this.terminating || this.settled) return;
    this.terminating = true;
    this.abort.abort(new DOMException("the bot is being stopped", "AbortError"));
    const shutdown = this.exports && (this.exports.shutdown || this.exports.default?.shutdown);
    if (typeof shutdown === "function") {
      try {
        await shutdown("SIGTERM");
      } catch (error) {
        this.fail(error);
        return;
      }
    }
    // A main that watches the signal, or a handler of the bot's own, ends it; otherwise nobody would.
    if (!this.signalTaken && process.listenerCount("SIGTERM") === 1) this.finish("", TERMINATED);
  }

  succeed(value) {
    let text;
    try {
      text = JSON.stringify(value) ?? "null";
      // Legal in JSON, and the end of a line to some readers; the result is to be one line.
      text = text.replace(/[\u0085\u2028\u2029]/g, (sign) => "\\u" + sign.charCodeAt(0).toString(16).padStart(4, "0"));
    } catch (error) {
      this.fail(new BotError(`main returned something that is not JSON: ${error.message.split("\n")[0]}`));
      return;
    }
    this.finish("R" + text, 0);
  }

  fail(error) {
    if (this.terminating && error?.name === "AbortError") {
      this.finish("", TERMINATED);
      return;
    }
    const text = error instanceof BotError ? error.message : require("util").inspect(error);
    const lines = text.split("\n").filter((line) => !line.includes(__filename));
    process.stderr.write(lines.join("\n") + "\n");
    let message = typeof error === "object" && error !== null ? error.message || error.name : error;
    if (message === undefined) message = text;
    this.finish("E" + JSON.stringify({ status: "error", message: String(message) }), 1);
  }

  // The end of main is the end: timers and sockets that the bot left would keep the process alive.
  finish(result, code) {
    if (this.settled) return;
    this.settled = true;
    const bytes = Buffer.from(result);
    for (let written = 0; written < bytes.length; ) written += fs.writeSync(RESULT_DESCRIPTOR, bytes, written);
    process.stderr.write("", () => process.stdout.write("", () => process.exit(code)));
  }
}

async function load(file, spec) {
  if (!fs.statSync(file, { throwIfNoEntry: false })?.isFile()) {
    throw new BotError(`entrypoint file '${spec.script}' is not in the bot's archive`);
  }
  if (isModule(file, spec.mount)) return importModule(file);
  try {
    return require(file);
  } catch (error) {
    const esm = ["ERR_REQUIRE_ESM", "ERR_REQUIRE_ASYNC_MODULE"].includes(error?.code);
    const syntax = error instanceof SyntaxError && /\b(import|export|await)\b/.test(error.message);
    if (esm || syntax) return importModule(file);
    throw error;
  }
}

function importModule(file) {
  return import(require("url").pathToFileURL(file).href);
}

// Node's own rule, applied by hand because require() and import() must be told apart beforehand.
function isModule(file, mount) {
  const suffix = path.extname(file);
  if (suffix !== ".js") return suffix === ".mjs";
  for (let folder = path.dirname(file); folder.startsWith(mount); folder = path.dirname(folder)) {
    let text;
    try {
      text = fs.readFileSync(path.join(folder, "package.json"), "utf8");
    } catch {
      continue;
    }
    try {
      return JSON.parse(text).type === "module";
    } catch {
      return false;
    }
  }
  return false;
}

function mainOf(exported, script) {
  const fallback = exported?.default;
  for (const candidate of [exported?.main, fallback?.main, fallback, exported]) {
    if (typeof candidate === "function") return candidate;
  }
  throw new BotError(`'${script}' exports no function main(id, config)`);
}

const base = process.argv[2];
const spec = JSON.parse(fs.readFileSync(path.join(base, "spec", "spec.json"), "utf8"));
new BotProcess(spec, fs.readFileSync(path.join(base, "spec", "config.json"), "utf8")).run();
