// The bot's own process: loads its entrypoint, calls `main(id, config, { signal })` and hands what comes of it to the
// init, over descriptor 3; sandbox/init/result.c says how.
"use strict";

const fs = require("fs");
const path = require("path");

const RESULT_DESCRIPTOR = 3;
const TERMINATED = 128 + 15;

const SUFFIXES = [".js", ".mjs", ".cjs"];
const NOTE_BYTES = { reason: 50, type: 250, message: 1700, hint: 1000 };

// The bot cannot be run as it is; told without a stack, which would show only our own frames. The reason is a word of
// `FailureReason`.
class BotError extends Error {
  constructor(reason, message) {
    super(message);
    this.reason = reason;
  }
}

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
      if (!this.settled) this.fail(new BotError("never-finished", "main never finished: nothing is left that it could wait for"));
    });
    try {
      const config = JSON.parse(this.configText);
      this.exports = await load(this.file, this.spec);
      this.succeed(await mainOf(this.exports, this.spec.script)(this.spec.id, config, this.context()));
    } catch (error) {
      this.fail(error);
    }
  }

  prepare() {
    this.file = prepare(this.spec, this.configText);
    // V8 aborts the process when its heap is full, and says why only in text.
    fs.writeSync(RESULT_DESCRIPTOR, `H${require("v8").getHeapStatistics().heap_size_limit}\n`);
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
    // A main that watches the signal or a handler of the bot ends the process itself. Without both, it is ended here.
    if (!this.signalTaken && process.listenerCount("SIGTERM") === 1) this.finish("", TERMINATED);
  }

  succeed(value) {
    let text;
    try {
      text = JSON.stringify(value) ?? "null";
      // Legal in JSON, and the end of a line to some readers; the result is to be one line.
      text = text.replace(/[\u0085\u2028\u2029]/g, (sign) => "\\u" + sign.charCodeAt(0).toString(16).padStart(4, "0"));
    } catch (error) {
      this.fail(new BotError("result-not-json", `main returned something that is not JSON: ${firstLine(error)}`));
      return;
    }
    this.finish("R" + text, 0);
  }

  fail(error) {
    if (this.terminating && error?.name === "AbortError") {
      this.finish("", TERMINATED);
      return;
    }
    const known = error instanceof BotError;
    const raised = !known && typeof read(() => error.stack) === "string";
    const text = known ? error.message : inspected(error);
    const lines = text.split("\n").filter((line) => !line.includes(__filename));
    process.stderr.write(lines.join("\n") + "\n");
    const hint = known ? "" : hintFor(error);
    if (hint) process.stderr.write(`hint: ${hint}\n`);
    const type = raised ? typeName(error) : "";
    // What is thrown need not be an error.
    const told = messageOf(error) || (raised ? "" : text);
    const message = told || type || text;
    const note = { reason: known ? error.reason : "exception", type, message: told, hint };
    const notes = Object.entries(note).map(([name, text]) => noteLine(name, text));
    this.finish(`E${notes.join("")}\n${JSON.stringify({ status: "error", message })}`, 1);
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

// The process as a program of a bot expects to find it; returns the file of the program.
function prepare(spec, configText) {
  const prefix = spec.entrypoint.toUpperCase();
  process.env[`${prefix}_ID`] = process.env.ID = spec.id.replaceAll("\0", "");
  process.env[`${prefix}_CONFIG`] = process.env.CONFIG = configText;
  process.env.ENTRYPOINT_TYPE = spec.entrypoint;
  process.env.SCRIPT_PATH = spec.script;
  process.env.CODE_MOUNT_DIR = spec.mount;
  process.env.PYTHONDONTWRITEBYTECODE = "1";
  if (spec.traceparent) process.env.TRACEPARENT = spec.traceparent;
  const file = entrypointFile(path.join(spec.mount, spec.script));
  process.argv = [process.argv[0], file];
  process.chdir(spec.mount);
  // Written when it is printed: otherwise process.exit() would cut off what the pipe had no room for.
  for (const stream of [process.stdout, process.stderr]) stream._handle?.setBlocking?.(true);
  return file;
}

// A note as the init takes it: a line with a string of JSON in ASCII, so short that the worker reads it.
function noteLine(name, text) {
  const most = NOTE_BYTES[name];
  text = text.slice(0, most);
  for (let encoded; ; text = text.slice(0, Math.floor((text.length * most) / encoded.length))) {
    encoded = JSON.stringify(text).replace(/[\x7f-\uffff]/g, (sign) => "\\u" + sign.charCodeAt(0).toString(16).padStart(4, "0"));
    if (encoded.length <= most) return `${name}=${encoded}\n`;
  }
}

// A bot may throw anything; what cannot be read of it is empty.
function read(property) {
  try {
    return property();
  } catch {
    return undefined;
  }
}

function messageOf(error) {
  const isObject = typeof error === "object" && error !== null;
  return read(() => (isObject ? (error.message === undefined ? "" : String(error.message)) : String(error))) ?? "";
}

// The type as a stack names it: a class of its own says more than the `Error` that it inherits its name from.
function typeName(error) {
  const name = read(() => error.name);
  const own = read(() => error.constructor.name);
  const better = typeof name !== "string" || !name || name === "Error" ? own : name;
  return typeof better === "string" ? better : "";
}

function inspected(error) {
  return read(() => require("util").inspect(error)) ?? "an error that cannot be shown";
}

function firstLine(error) {
  return messageOf(error).split("\n")[0];
}

function hintFor(error) {
  return read(() => require("./the0_hints.js").hintFor(error)) ?? "";
}

// The file that is meant: an entrypoint may be named without its suffix.
function entrypointFile(named) {
  return [named, ...SUFFIXES.map((suffix) => named + suffix)].find(isFile) ?? named;
}

function isFile(file) {
  return read(() => fs.statSync(file, { throwIfNoEntry: false })?.isFile()) ?? false;
}

// What the file exports; `required` returns that of a CommonJS file.
async function load(file, spec, required = require) {
  if (!isFile(file)) {
    throw new BotError("entrypoint-missing", `entrypoint file '${spec.script}' is not in the bot's archive`);
  }
  if (isModule(file, spec.mount)) return importModule(file);
  try {
    return required(file);
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
  // An import() of CommonJS that was compiled from a module wraps the default export twice.
  for (const owner of [exported, exported?.default, exported?.default?.default]) {
    if (typeof owner?.main === "function") return owner.main.bind(owner);
  }
  for (const candidate of [exported?.default?.default, exported?.default, exported]) {
    if (typeof candidate === "function") return candidate;
  }
  throw new BotError("main-missing", `'${script}' exports no function main(id, config)`);
}

module.exports = { RESULT_DESCRIPTOR, load, prepare };

if (require.main === module) {
  const base = process.argv[2];
  const spec = JSON.parse(fs.readFileSync(path.join(base, "spec", "spec.json"), "utf8"));
  new BotProcess(spec, fs.readFileSync(path.join(base, "spec", "config.json"), "utf8")).run();
}
