// The pairs to label: which one is on the screen, which ones are loaded ahead, and the lease that keeps them ours.

import { Refused, Unreachable, call, patiently } from "./api.js";
import { Clip } from "./player/clip.js";

const AHEAD = 2; // the pair in hand and one more
const KEEP_OPEN = 3; // finished pairs whose videos stay loaded, for going back

export class Queue extends EventTarget {
  constructor(outbox) {
    super();
    this.outbox = outbox;
    this.ready = []; // tasks in the order of the server
    this.finished = []; // task ids submitted in this visit, newest last
    this.clips = new Map();
    this.tasks = new Map();
    this.fetching = null;
    this.exhausted = false;
    this.beat = setTimeout(() => this.#heartbeat(), 20000);
  }

  /** The task to work on now, or null when nothing is left. Waits for the network as long as it takes. */
  async current() {
    if (this.ready.length === 0) await this.refill();
    return this.ready[0] ?? null;
  }

  /** Ask for more tasks until enough are loaded. */
  refill() {
    this.fetching ??= this.#fetch().finally(() => { this.fetching = null; });
    return this.fetching;
  }

  async #fetch() {
    // an unsent submit would have the server give the same pair again
    await this.outbox.flushed();
    const reply = await patiently(() => call("POST", "/api/next", { count: AHEAD }), {
      onWait: () => this.#say("offline"),
    });
    this.#say("online");
    const tasks = (reply?.tasks ?? (reply?.task_id ? [reply] : [])).filter((task) => !this.finished.includes(task.task_id));
    for (const task of tasks) {
      if (!this.ready.some((known) => known.task_id === task.task_id)) this.ready.push(task);
      this.tasks.set(task.task_id, { ...task, ...this.tasks.get(task.task_id) });
    }
    this.exhausted = tasks.length === 0;
    for (const task of this.ready.slice(0, AHEAD)) this.clip(task);
  }

  /** The videos of a task, loading. */
  clip(task) {
    if (!this.clips.has(task.task_id)) this.clips.set(task.task_id, new Clip(task));
    return this.clips.get(task.task_id);
  }

  /** Put a submitted task aside. */
  finish(taskId) {
    this.ready = this.ready.filter((task) => task.task_id !== taskId);
    if (!this.finished.includes(taskId)) this.finished.push(taskId);
    const needed = new Set([...this.ready.slice(0, AHEAD).map((task) => task.task_id), ...this.finished.slice(-KEEP_OPEN)]);
    for (const [id, clip] of this.clips) {
      if (needed.has(id)) continue;
      clip.close();
      this.clips.delete(id);
    }
  }

  /** The server did not take a submit: the pair is still to be done. */
  reopen(taskId) {
    this.finished = this.finished.filter((id) => id !== taskId);
    const task = this.tasks.get(taskId);
    if (task) task.submitted = false;
  }

  /** Open any own task again, as the server has it now; without network as it was last seen. */
  async open(taskId) {
    const known = this.ready.find((task) => task.task_id === taskId);
    if (known) return known;
    try {
      const task = await call("GET", `/api/task/${encodeURIComponent(taskId)}`);
      this.tasks.set(taskId, task);
      return task;
    } catch (error) {
      if (error instanceof Unreachable && this.tasks.has(taskId)) return this.tasks.get(taskId);
      throw error;
    }
  }

  async #heartbeat() {
    let pause = 20;
    const held = this.ready.map((task) => task.task_id);
    if (held.length) {
      try {
        const reply = await call("POST", "/api/heartbeat", { task_ids: held });
        pause = Math.max(5, (reply?.lease_s ?? 60) / 3);
      } catch (error) {
        if (error instanceof Refused && error.status === 409) this.#say("lost");
      }
    }
    this.beat = setTimeout(() => this.#heartbeat(), pause * 1000);
  }

  #say(what) { this.dispatchEvent(new CustomEvent(what)); }

  close() {
    clearTimeout(this.beat);
    for (const clip of this.clips.values()) clip.close();
    this.clips.clear();
  }
}
