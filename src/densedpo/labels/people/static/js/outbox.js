// What still has to reach the server. Every post is written to the browser's storage first, under a key of its own, and
// removed only when the server has acknowledged it: a reload, a closed tab or a lost network lose nothing, and the key
// lets the server store a repeated post once. Each tab sends its own posts, in order, and adopts those left by others.

import { Refused, Unreachable, call, uuid } from "./api.js";

const PREFIX = "densedpo/outbox/";
const ORPHAN_MS = 8000; // a post of another tab that waits longer than this is sent by whoever sees it
const FIRST_DELAY_MS = 500;
const LAST_DELAY_MS = 8000;

export class Outbox extends EventTarget {
  constructor(annotator, store = window.localStorage) {
    super();
    this.prefix = `${PREFIX}${encodeURIComponent(annotator)}/`;
    this.store = store;
    this.tab = tabName();
    this.memory = new Map(); // only where the browser refuses to store
    this.delay = FIRST_DELAY_MS;
    this.state = "idle"; // idle, sending, waiting, signed out
    this.timer = null;
    this.waiters = [];
    this.ending = new AbortController();
    const { signal } = this.ending;
    window.addEventListener("online", () => this.hurry(), { signal });
    window.addEventListener("storage", (event) => { if (event.key?.startsWith(this.prefix)) this.#changed(); }, { signal });
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.hurry(); }, { signal });
    this.round = setInterval(() => { if (this.state === "idle" && this.#next()) this.#send(); }, ORPHAN_MS);
    this.#send();
  }

  /** Send no more: somebody else has signed in. What waits is sent when its author is back. */
  close() {
    this.ending.abort();
    clearInterval(this.round);
    clearTimeout(this.timer);
    this.state = "closed";
  }

  /** A number that rises over all tabs of this browser; the server lets the highest win. */
  #number() {
    const last = Number(this.#read(`${this.prefix}last`) ?? 0);
    const number = Math.max(Date.now(), last + 1);
    this.#write(`${this.prefix}last`, String(number));
    return number;
  }

  /** Keep a post and send it as soon as possible; returns its entry at once. */
  add(path, body) {
    const seq = this.#number();
    const entry = { path, body: { ...body, key: uuid(), ...(body.answers ? { seq } : {}) }, tab: this.tab, at: Date.now() };
    entry.name = `${this.prefix}post/${String(seq).padStart(16, "0")}/${entry.body.key}`;
    this.#write(entry.name, JSON.stringify(entry));
    this.#changed();
    if (this.state === "idle") this.#send();
    return entry;
  }

  /** All posts not yet acknowledged, in order. */
  entries() {
    const start = `${this.prefix}post/`;
    const names = new Set(this.memory.keys());
    for (let i = 0; i < this.store.length; i += 1) names.add(this.store.key(i));
    return [...names].filter((name) => name.startsWith(start)).sort().map((name) => parse(this.#read(name))).filter(Boolean);
  }

  pendingFor(taskId) { return this.entries().filter((entry) => entry.body.task_id === taskId); }

  /** Posts that the server will never take, with its reason: kept for a person to look at. */
  refused() { return parse(this.#read(`${this.prefix}refused`)) ?? []; }

  forgetRefused() { this.#remove(`${this.prefix}refused`); this.#changed(); }

  /** Wait until this tab has nothing left to send. */
  async flushed() {
    while (this.entries().some((entry) => entry.tab === this.tab)) {
      await new Promise((done) => { this.waiters.push(done); setTimeout(done, 2000); });
    }
  }

  /** Try again now instead of after the pause. */
  hurry() {
    clearTimeout(this.timer);
    this.delay = FIRST_DELAY_MS;
    if (this.state !== "sending" && this.state !== "closed") { this.state = "idle"; this.#send(); }
  }

  #next() {
    const old = Date.now() - ORPHAN_MS;
    return this.entries().find((entry) => entry.tab === this.tab || entry.at < old) ?? null;
  }

  async #send() {
    if (this.state !== "idle") return;
    this.state = "sending";
    for (let entry = this.#next(); entry && this.state === "sending"; entry = this.#next()) {
      try {
        const reply = await call("POST", entry.path, entry.body);
        this.delay = FIRST_DELAY_MS;
        this.#remove(entry.name);
        this.#changed();
        this.dispatchEvent(new CustomEvent("sent", { detail: { entry, reply } }));
      } catch (error) {
        if (!this.#failed(entry, error)) return;
      }
    }
    if (this.state === "sending") this.state = "idle";
    this.#changed();
  }

  /** Returns whether sending goes on with the next post. */
  #failed(entry, error) {
    if (error instanceof Refused && !error.temporary && error.status !== 401) {
      const refused = [...this.refused(), { ...entry, reason: error.message }];
      this.#write(`${this.prefix}refused`, JSON.stringify(refused.slice(-200)));
      this.#remove(entry.name);
      this.#changed();
      this.dispatchEvent(new CustomEvent("refused", { detail: { entry, error } }));
      return true;
    }
    if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
    if (this.state === "closed") return false;
    const signedOut = error.status === 401;
    this.state = signedOut ? "signed out" : "waiting";
    this.#changed();
    if (signedOut) this.dispatchEvent(new CustomEvent("signedout", { detail: error.body }));
    this.timer = setTimeout(() => { this.state = "idle"; this.#send(); }, this.delay * (0.75 + Math.random() / 2));
    this.delay = Math.min(this.delay * 2, LAST_DELAY_MS);
    return false;
  }

  #changed() {
    for (const done of this.waiters.splice(0)) done();
    this.dispatchEvent(new CustomEvent("change"));
  }

  #read(name) {
    if (this.memory.has(name)) return this.memory.get(name);
    try { return this.store.getItem(name); } catch { return null; }
  }

  #write(name, text) {
    try {
      this.store.setItem(name, text);
    } catch { // full, or storage is forbidden: this tab still sends it
      this.memory.set(name, text);
      this.dispatchEvent(new CustomEvent("nostorage"));
    }
  }

  #remove(name) {
    this.memory.delete(name);
    try { this.store.removeItem(name); } catch { /* it was never stored */ }
  }
}

function parse(text) {
  try { return text ? JSON.parse(text) : null; } catch { return null; }
}

function tabName() {
  try {
    const name = sessionStorage.getItem("densedpo/tab") ?? uuid(); // survives a reload, so that the tab finds its posts
    sessionStorage.setItem("densedpo/tab", name);
    return name;
  } catch {
    return uuid();
  }
}
