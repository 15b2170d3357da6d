// Brings the page up to date, and shows the output of one entity as it comes. The page works without it.
"use strict";

const KEPT_LINES = 2000;
const LONGEST_LINE = 4000;
const COLOURS = /\u001b\[[0-9;:]*m/g;
// Control characters, marks of direction, spaces of no width, and halves of characters: see visible.py.
const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}\ud800-\udfff]/gu;

const visible = (text) =>
  text.replace(COLOURS, "").replace(HIDDEN, (found) => `\\u{${found.codePointAt(0).toString(16)}}`);

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function isBeingUsed(content) {
  const selection = document.getSelection();
  const selects = selection && !selection.isCollapsed && content.contains(selection.anchorNode);
  return document.hidden || selects || content.querySelector("form:focus-within") !== null;
}

function replace(content, fresh) {
  const open = [...content.querySelectorAll("details[open]")].map((details) => details.id);
  const focused = document.activeElement;
  const places = [...content.querySelectorAll("a[href], summary, [tabindex]")];
  const place = content.contains(focused) ? places.indexOf(focused) : -1;
  const scrolled = [...content.querySelectorAll(".scroll")].map((region) => region.scrollLeft);
  content.replaceChildren(...fresh.childNodes);
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  content.querySelectorAll(".scroll").forEach((region, index) => { region.scrollLeft = scrolled[index] ?? 0; });
  if (place >= 0) content.querySelectorAll("a[href], summary, [tabindex]")[place]?.focus({ preventScroll: true });
}

async function refresh(content) {
  const seconds = Number(content.dataset.refresh);
  while (seconds > 0) {
    await pause(seconds * 1000);
    if (isBeingUsed(content)) continue;
    try {
      const answer = await fetch(location.href, { signal: AbortSignal.timeout(10000) });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("content");
      if (fresh === null) throw new Error("no page");
      if (!isBeingUsed(content)) replace(content, fresh);
      document.querySelector("footer").replaceChildren(...page.querySelector("footer").childNodes);
    } catch {
      document.getElementById("stale").hidden = false;
    }
  }
}

class Log {
  constructor(box, state, follow) {
    this.box = box;
    this.state = state;
    this.follow = follow;
    this.rest = "";
    this.last = null;
  }

  clear() {
    this.box.replaceChildren();
    this.rest = "";
    this.last = null;
  }

  add(text) {
    const lines = (this.rest + text).split("\n");
    // What has no end yet is shown too, and goes on with the next piece. Only so much of it is kept.
    this.rest = lines[lines.length - 1].slice(0, LONGEST_LINE + 1);
    const shown = lines.slice(-KEPT_LINES);
    const begun = this.last;
    const fresh = document.createDocumentFragment();
    shown.forEach((line, index) => {
      if (index === shown.length - 1 && line === "") {
        this.last = null;
        return;
      }
      const element = index === 0 && begun !== null ? begun : fresh.appendChild(document.createElement("span"));
      element.className = line.startsWith("[the0: ") ? "line note" : "line";
      const cut = line.length > LONGEST_LINE ? "… (line truncated; see “as text”)" : "";
      element.textContent = visible(line.slice(0, LONGEST_LINE)) + cut;
      this.last = element;
    });
    this.box.append(fresh);
    while (this.box.childElementCount > KEPT_LINES) this.box.firstElementChild.remove();
    if (this.follow.checked) this.box.scrollTop = this.box.scrollHeight;
  }

  say(text) {
    if (this.state.textContent !== text) this.state.textContent = text;
  }
}

async function stream(log, source) {
  const answer = await fetch(source);
  if (answer.status === 404) return "no output";
  if (!answer.ok) throw new Error((await answer.json()).error);
  const live = answer.headers.get("Log-Source") === "worker";
  log.clear();
  log.say(live ? "live" : "from the storage: up to half a minute late");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return null;
    log.add(value);
  }
}

async function showLog(box) {
  const log = new Log(box, document.getElementById("log-state"), document.getElementById("log-follow"));
  log.say("connecting");
  for (let failures = 0; ; failures += 1) {
    const begun = Date.now();
    try {
      const end = await stream(log, box.dataset.source);
      if (end !== null) return log.say(end);
      log.say("the stream ended; reconnecting");
    } catch (error) {
      log.say(`not available: ${visible(String(error.message)).slice(0, 200)}`);
    }
    if (Date.now() - begun > 10000) failures = 0;
    await pause(Math.min(1000 * 2 ** failures, 15000));
  }
}

const content = document.getElementById("content");
if (content !== null) refresh(content);
const box = document.getElementById("log");
if (box !== null) showLog(box);
