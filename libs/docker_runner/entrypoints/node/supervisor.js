// Runs inside the container, as the init's only child: keeps the bot's process, its output and its lease.
//
// Exit code: the bot's own, 128+n when signal n ended it, 75 when its lease ran out. What the files in `base` mean is
// told in ../python/the0_supervisor.py, which does the same for Python.
"use strict";

const { spawn } = require("child_process");
const fs = require("fs");
const path = require("path");

const LEASE_LOST = 75;
const TERM_BEFORE_DEADLINE_SECONDS = 0.75;
const MAX_GRACE_SECONDS = 30;
const POLL_MILLISECONDS = 200;
const DRAIN_MILLISECONDS = 5000;
const FIRST_USAGE_MILLISECONDS = 1000;
const USAGE_MILLISECONDS = 10000;
const HEAD_BYTES = 512;
// The worker reads 4 KiB of a note.
const NOTE_BYTES = { reason: 50, type: 250, message: 1700, hint: 1000 };
// Young objects and what is not in the heap make up for the rest, more or less.
const HEAP_IS_FULL = 0.8;
const SIGNALS = require("os").constants.signals;

// Seconds since boot, time asleep included: the clock that the worker's deadlines are in.
function uptime() {
  return parseFloat(fs.readFileSync("/proc/uptime", "utf8"));
}

// The dead-man's switch. Under the same kernel the deadline in the file counts; otherwise a change of the file does,
// for the seconds left that it tells, from when we saw it.
class Lease {
  constructor(file, ttl) {
    this.file = file;
    this.seen = "";
    this.deadline = uptime() + ttl;
    try {
      this.bootId = fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    } catch {
      this.bootId = "";
    }
    let content, age;
    try {
      content = fs.readFileSync(file, "utf8");
      age = Math.max(0, (Date.now() - fs.statSync(file).mtimeMs) / 1000);
    } catch {
      return;
    }
    // A start that the engine held back must not revive a lease that ran out meanwhile.
    this.deadline -= Math.min(ttl, age);
    this.take(content);
  }

  look() {
    let content;
    try {
      content = fs.readFileSync(this.file, "utf8");
    } catch {
      return;
    }
    if (content !== this.seen) this.take(content);
  }

  take(content) {
    const words = content.trim().split(/\s+/);
    const deadline = Number(words[1]);
    const ttl = Number(words[2]);
    if (words.length !== 4 || Number.isNaN(deadline) || Number.isNaN(ttl)) return;
    const now = uptime();
    if (deadline === 0) {
      // The worker gave the segment up.
      this.deadline = 0;
    } else if (words[0] === this.bootId) {
      // The first reading replaces the guess from the file's age; later ones never shorten what was proven.
      this.deadline = Math.max(this.seen ? this.deadline : 0, Math.min(deadline, now + ttl));
    } else if (this.seen) {
      this.deadline = now + ttl;
    }
    this.seen = content;
  }
}

class Supervisor {
  constructor(base, spec, lease) {
    this.base = base;
    this.spec = spec;
    this.lease = lease;
    this.reason = "exit";
    this.killAt = null;
    this.ended = null;
    this.result = [];
    this.resultBytes = 0;
    this.lastByte = 10;
    this.burst = Math.max(65536, spec.output_burst_bytes);
    this.tokens = this.burst;
    this.refilled = performance.now();
  }

  start() {
    const bot = path.join(__dirname, "the0_bot_process.js");
    this.child = spawn(process.execPath, [bot, this.base], {
      stdio: ["ignore", "pipe", "pipe", "pipe"],
      detached: true,
    });
    for (const name of ["SIGTERM", "SIGINT", "SIGHUP"]) {
      process.on(name, () => {
        if (this.reason === "exit") this.reason = "terminated";
        this.send(name);
      });
    }
    this.pump(this.child.stdout, process.stdout, (chunk) => (this.lastByte = chunk[chunk.length - 1]));
    this.pump(this.child.stderr, process.stderr, () => {});
    this.child.stdio[3].on("data", (chunk) => {
      if (this.resultBytes <= this.spec.result_bytes + 1) this.result.push(chunk);
      this.resultBytes += chunk.length;
    });
    this.child.on("error", (error) => {
      process.stderr.write(`the bot's process cannot be started: ${error.message}\n`);
      this.finish(1, null);
    });
    this.child.on("exit", (code, signal) => this.exited(code, signal));
    setTimeout(() => this.tell("running", "none"), FIRST_USAGE_MILLISECONDS).unref();
    this.telling = setInterval(() => this.tell("running", "none"), USAGE_MILLISECONDS).unref();
    if (this.lease) this.watching = setInterval(() => this.watch(), POLL_MILLISECONDS);
  }

  // --- while it runs

  // Faster than the allowed rate, the bot waits; so it does while the engine does not read.
  pump(source, target, seen) {
    target.on("error", () => {});
    source.on("data", (chunk) => {
      seen(chunk);
      const taken = target.write(chunk);
      this.spend(chunk.length);
      if (this.ended) return;
      if (!taken) {
        source.pause();
        target.once("drain", () => source.resume());
      } else if (this.tokens < 0) {
        source.pause();
        setTimeout(() => source.resume(), Math.max(10, (-this.tokens / this.spec.output_bytes_per_second) * 1000));
      }
    });
  }

  spend(bytes) {
    const now = performance.now();
    const refill = ((now - this.refilled) / 1000) * this.spec.output_bytes_per_second;
    this.tokens = Math.min(this.burst, this.tokens + refill) - bytes;
    this.refilled = now;
  }

  watch() {
    this.lease.look();
    const now = uptime();
    if (this.killAt === null && now >= this.lease.deadline - TERM_BEFORE_DEADLINE_SECONDS) {
      this.reason = "lease-lost";
      this.killAt = now + MAX_GRACE_SECONDS;
      this.send("SIGTERM");
    }
    // All at once: what is left of the bot's CPU quota may not suffice to see one die before the next.
    if (this.killAt !== null && now >= Math.min(this.lease.deadline, this.killAt)) this.killRest();
  }

  send(name) {
    if (!this.ended) this.child.kill(name);
  }

  // Whatever the bot started ends with it.
  killRest() {
    try {
      process.kill(this.spec.contained && process.ppid === 1 ? -1 : -this.child.pid, "SIGKILL");
    } catch {
      // Nothing was left.
    }
  }

  // --- afterwards

  exited(code, signal) {
    this.ended = true;
    this.signal = signal;
    clearInterval(this.watching);
    this.killRest();
    for (const source of [this.child.stdout, this.child.stderr]) source.resume();
    const patience = this.reason === "lease-lost" ? 1000 : DRAIN_MILLISECONDS;
    const finish = () => this.finish(code === null ? 128 + SIGNALS[signal] : code, patience);
    const impatient = setTimeout(finish, patience);
    this.child.once("close", () => {
      clearTimeout(impatient);
      finish();
    });
  }

  finish(code, patience) {
    if (this.finished) return;
    this.finished = true;
    const all = Buffer.concat(this.result);
    let kind = String.fromCharCode(all[0] || 0);
    let payload = all.subarray(1);
    let failure;
    if (kind === "E") {
      const end = payload.indexOf(10);
      failure = bounded(payload.subarray(0, Math.max(0, end)));
      payload = payload.subarray(end + 1);
    }
    const limit = this.spec.result_bytes;
    if (kind === "R" && code === 0 && this.resultBytes - 1 > limit) {
      kind = "E";
      code = 1;
      const message = `main returned more than ${limit} bytes of JSON`;
      failure = { reason: "result-too-large", message };
      payload = Buffer.from(JSON.stringify({ status: "error", message }));
    }
    if ((kind === "R" && code !== 0) || (kind === "E" && code === 0) || this.reason === "lease-lost") kind = "";
    const told = kind === "R" || kind === "E";
    if (this.reason === "lease-lost") code = LEASE_LOST;
    if (kind !== "E") failure = this.signal === "SIGABRT" ? heapFailure() : undefined;
    this.tell(this.reason, { R: "result", E: "error" }[kind] || "none", told ? payload : Buffer.alloc(0), failure);
    if (told) {
      if (this.lastByte !== 10) process.stdout.write("\n");
      process.stdout.write(payload);
      process.stdout.write("\n");
    }
    const exit = () => process.exit(code);
    setTimeout(exit, patience || 0);
    process.stderr.write("", () => process.stdout.write("", exit));
  }

  // Leave for the worker what the kernel counted, and at the end (with `payload`) what the bot returned, or (with
  // `failure`) what it did wrong.
  tell(reason, kind, payload, failure) {
    if (this.finished && payload === undefined) return;
    const head = JSON.stringify({ reason, kind, failure, ...measured() }).padEnd(HEAD_BYTES - 1) + "\n";
    let file;
    try {
      // The file is made by the worker, if it wants to know.
      const flags = fs.constants.O_WRONLY | (payload === undefined ? 0 : fs.constants.O_TRUNC);
      file = fs.openSync(path.join(this.base, "outcome"), flags);
    } catch {
      return;
    }
    try {
      fs.writeFileSync(file, Buffer.concat([Buffer.from(head), payload || Buffer.alloc(0)]));
    } catch (error) {
      process.stderr.write(`the outcome cannot be written: ${error.message}\n`);
    } finally {
      fs.closeSync(file);
    }
  }
}

// The bot's note about its error, so short that the worker reads it; undefined when it is no note.
function bounded(note) {
  let values;
  try {
    values = JSON.parse(note.toString());
  } catch {
    return undefined;
  }
  const failure = {};
  for (const [name, most] of Object.entries(NOTE_BYTES)) {
    let text = values?.[name];
    if (typeof text !== "string") continue;
    for (let size; (size = Buffer.byteLength(JSON.stringify(text))) > most; ) {
      text = text.slice(0, Math.floor((text.length * most) / size));
    }
    failure[name] = text;
  }
  return failure;
}

// V8 aborts the process when its heap is full, and says why only in text; that the container has used as much tells it
// as well. Undefined when it was something else.
function heapFailure() {
  const limit = require("v8").getHeapStatistics().heap_size_limit;
  if (!(measured().peak_memory_bytes >= limit * HEAP_IS_FULL)) return undefined;
  const message = `out of memory: it used more than the ${Math.round(limit / 2 ** 20)} MiB that Node has for its heap here`;
  return { reason: "heap-full", message, hint: "raise config.resources.memoryMb or MEMORY_LIMIT_MB" };
}

// What the kernel counted for the whole container; null where it does not say. Control groups v1, then v2.
function measured() {
  const group = "/sys/fs/cgroup/";
  const memory = group + "memory/";
  const nanoseconds = numberIn(group + "cpuacct/cpuacct.usage");
  const microseconds = numberIn(group + "cpu.stat", "usage_usec");
  const [received, sent] = traffic();
  return {
    cpu_seconds: nanoseconds === null ? microseconds && microseconds / 1e6 : nanoseconds / 1e9,
    memory_bytes: numberIn(memory + "memory.usage_in_bytes") ?? numberIn(group + "memory.current"),
    inactive_bytes:
      numberIn(memory + "memory.stat", "total_inactive_file") ?? numberIn(group + "memory.stat", "inactive_file"),
    peak_memory_bytes: numberIn(memory + "memory.max_usage_in_bytes") ?? numberIn(group + "memory.peak"),
    memory_limit_bytes: numberIn(memory + "memory.limit_in_bytes") ?? numberIn(group + "memory.max"),
    oom_kills: numberIn(memory + "memory.oom_control", "oom_kill") ?? numberIn(group + "memory.events", "oom_kill"),
    pids: numberIn(group + "pids/pids.current") ?? numberIn(group + "pids.current"),
    received_bytes: received,
    sent_bytes: sent,
  };
}

// Bytes in and out over all cards but the loopback.
function traffic() {
  try {
    const lines = fs.readFileSync("/proc/net/dev", "utf8").trim().split("\n").slice(2);
    const counts = lines.map((line) => line.trim().split(/[:\s]+/)).filter((words) => words[0] !== "lo");
    const sum = (column) => counts.reduce((total, words) => total + Number(words[column]), 0);
    return [sum(1), sum(9)];
  } catch {
    return [null, null];
  }
}

function numberIn(file, key) {
  try {
    const lines = fs.readFileSync(file, "utf8").split("\n");
    const line = key ? lines.find((text) => text.split(" ")[0] === key) : lines[0];
    const value = parseInt(line.trim().split(/\s+/).pop(), 10);
    return Number.isNaN(value) ? null : value;
  } catch {
    return null;
  }
}

function main() {
  const base = process.argv[2] || "/run/the0";
  const spec = JSON.parse(fs.readFileSync(path.join(base, "spec", "spec.json"), "utf8"));
  let lease = null;
  if (spec.keepalive_ttl_seconds !== null) {
    lease = new Lease(path.join(base, "keepalive", "lease"), spec.keepalive_ttl_seconds);
    if (uptime() >= lease.deadline - TERM_BEFORE_DEADLINE_SECONDS) {
      process.stderr.write("the worker's lease ran out before this container started; not starting\n");
      process.exitCode = LEASE_LOST;
      return;
    }
  }
  new Supervisor(base, spec, lease).start();
}

main();
