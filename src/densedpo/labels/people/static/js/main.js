// The page from start to end: sign in, read the instructions, qualify, work, done; and what all screens share.

import { Refused, Unreachable, call, patiently } from "./api.js";
import { showScreen, toast } from "./dom.js";
import { Drafts } from "./drafts.js";
import { Keymap, actionsFor } from "./keys.js";
import { Outbox } from "./outbox.js";
import { Prefs, applyTheme } from "./prefs.js";
import { Queue } from "./queue.js";
import { doneScreen, historyScreen, messageScreen, signInScreen } from "./screens.js";
import { instructionsScreen } from "./instructions.js";
import { Settings } from "./settings.js";
import { Top } from "./top.js";
import { Work } from "./work.js";

const SIGN_IN_AGAIN = "Please sign in again; nothing is lost.";

class App {
  constructor() {
    this.prefs = new Prefs();
    applyTheme(this.prefs);
    this.me = null;
    this.answeredHere = new Map(); // task id -> segments posted in this visit
    this.channel = "BroadcastChannel" in window ? new BroadcastChannel("densedpo") : null;
    this.channel?.addEventListener("message", (event) => this.#heard(event.data));
    document.addEventListener("keydown", (event) => this.#key(event));
    window.addEventListener("popstate", (event) => this.#back(event.state));
  }

  async start() {
    const token = new URLSearchParams(location.hash.slice(1)).get("token");
    if (token) {
      history.replaceState(null, "", location.pathname); // an invite must not stay in the history
      try {
        await patiently(() => call("POST", "/api/session", { token }));
      } catch (error) {
        this.askToSignIn(true, error.message);
        return;
      }
    }
    try {
      this.enter(await patiently(() => call("GET", "/api/me"), { onWait: () => showScreen("message", messageScreen("Waiting for the server …", "The page goes on by itself.")) }));
    } catch (error) {
      if (error instanceof Refused && error.status === 401) this.askToSignIn(Boolean(error.body.needs_token));
      else showScreen("message", messageScreen("This did not work", error.message));
    }
  }

  askToSignIn(needsToken, problem = "") {
    showScreen("signin", signInScreen(needsToken, problem, async (body) => {
      this.channel?.postMessage({ kind: "leaving" });
      this.outbox?.close(); // nothing that waits may go out under another name
      await call("POST", "/api/session", body);
      this.enter(await call("GET", "/api/me"));
    }));
  }

  /** A person is signed in: make what belongs to them, once. */
  enter(me) {
    const before = this.me;
    this.me = me;
    if (before?.annotator !== me.annotator || this.outbox.state === "closed") {
      this.queue?.close();
      this.outbox?.close();
      this.channel?.postMessage({ kind: "session", annotator: me.annotator });
      this.keymap = new Keymap(me.settings?.keys, actionsFor(me.settings?.questions));
      this.prefs.suggest({ layout: me.settings?.layout });
      this.drafts = new Drafts(me.annotator);
      this.outbox = new Outbox(me.annotator);
      this.outbox.addEventListener("signedout", (event) => { if (document.body.dataset.screen !== "signin") this.askToSignIn(Boolean(event.detail.needs_token), SIGN_IN_AGAIN); });
      this.outbox.addEventListener("refused", (event) => {
        const { entry, error } = event.detail;
        toast(`The server did not take this: ${error.message}`, "error");
        if (entry.path === "/api/submit") this.queue.reopen(entry.body.task_id);
      });
      this.outbox.addEventListener("nostorage", () => toast("This browser stores nothing: keep the tab open until all is saved.", "error"));
      this.queue = new Queue(this.outbox);
      this.queue.addEventListener("lost", () => toast("This pair was handed to somebody else meanwhile. Your answers are kept all the same."));
      this.settings ??= new Settings(this.keymap, this.prefs);
      this.settings.keymap = this.keymap;
      this.keymap.addEventListener("change", () => { if (this.work.sheet) this.work.open(this.work.task); });
      this.work = new Work(this);
      this.top = new Top(this);
      this.prefs.addEventListener("change", () => { if (this.work.sheet) this.work.drawCaption(); });
    } else this.outbox.hurry();
    this.top.draw();
    if (me.stage === "instructions") this.instructions();
    else this.advance();
  }

  instructions() {
    this.work.leave();
    showScreen("instructions", instructionsScreen(this, async () => {
      if (this.me.stage === "instructions") this.enter(await patiently(() => call("POST", "/api/stage", { stage: "instructions", done: true })));
      else this.advance();
    }));
  }

  /** Go to the pair that is to be done next. */
  async advance() {
    this.work.leave();
    if (this.queue.ready.length === 0) showScreen("message", messageScreen("Fetching the next pair …", "Without a network this waits; your answers are safe."));
    try {
      const task = await this.queue.current();
      if (task) this.show(task, true);
      else await this.#finished();
    } catch (error) {
      this.#failed(error);
    }
  }

  async #finished() {
    await this.refresh();
    if (this.me.stage === "instructions") this.instructions();
    else showScreen("done", doneScreen(this));
  }

  show(task, remember) {
    this.work.open(task);
    this.top.draw();
    const state = { task: task.task_id };
    if (remember && history.state?.task !== task.task_id) {
      if (history.state?.task) history.pushState(state, ""); else history.replaceState(state, "");
    }
    if (this.queue.ready.length < 2) this.queue.refill().catch((error) => this.#failed(error));
  }

  async openTask(taskId, remember = true) {
    try {
      this.show(await this.queue.open(taskId), remember);
    } catch (error) {
      toast(error instanceof Unreachable ? "That pair cannot be opened without a network." : error.message, "error");
    }
  }

  async openHistory() {
    try {
      const reply = await call("GET", "/api/history?limit=50");
      this.work.leave();
      showScreen("history", historyScreen(this, reply?.tasks ?? []));
    } catch (error) {
      toast(error instanceof Unreachable ? "The list cannot be loaded without a network." : error.message, "error");
    }
  }

  previousPair(taskId) {
    const place = this.queue.finished.indexOf(taskId);
    const before = place >= 0 ? this.queue.finished[place - 1] : this.queue.finished.at(-1);
    if (before) this.openTask(before); else this.openHistory();
  }

  /** Segments of a task that the server has or will have an answer for. */
  posted(task) {
    const given = (task.answers ?? []).map((answer) => answer.segment);
    return [...given, ...(this.answeredHere.get(task.task_id) ?? []), ...this.outbox.pendingFor(task.task_id).flatMap((entry) => (entry.body.answers ?? []).map((answer) => answer.segment))];
  }

  post(task, answers) {
    this.outbox.add("/api/answers", { task_id: task.task_id, answers });
    this.answeredHere.set(task.task_id, new Set([...(this.answeredHere.get(task.task_id) ?? []), ...answers.map((answer) => answer.segment)]));
    this.#remember(task, answers);
    this.channel?.postMessage({ kind: "answers", annotator: this.me.annotator, task_id: task.task_id, answers });
  }

  /** The task as last seen carries its newest answers, so that it can be opened again without a network. */
  #remember(task, answers) {
    const changed = new Set(answers.map((answer) => answer.segment));
    task.answers = [...(task.answers ?? []).filter((answer) => !changed.has(answer.segment)), ...answers.filter((answer) => answer.answer !== null)];
    this.queue.tasks.set(task.task_id, task);
  }

  async submit(task) {
    const wasDone = task.submitted;
    const entry = this.outbox.add("/api/submit", { task_id: task.task_id });
    const reply = this.me.stage === "qualification" ? await this.#replyTo(entry) : null;
    task.submitted = true;
    this.queue.finish(task.task_id);
    this.channel?.postMessage({ kind: "submitted", annotator: this.me.annotator, task_id: task.task_id });
    if (!wasDone && this.me.progress) this.me.progress.done += 1;
    this.top.draw();
    this.#refreshLater();
    if (reply?.feedback?.length) this.work.showFeedback(reply.feedback);
    else await this.advance();
  }

  /** Wait for what the server says to a post; null where another tab sent it or it was refused. */
  #replyTo(entry) {
    return new Promise((done) => {
      const stop = (reply) => { this.outbox.removeEventListener("sent", sent); this.outbox.removeEventListener("change", gone); done(reply); };
      const sent = (event) => { if (event.detail.entry.name === entry.name) stop(event.detail.reply); };
      const gone = () => setTimeout(() => { if (!this.outbox.entries().some((item) => item.name === entry.name)) stop(null); }, 300);
      this.outbox.addEventListener("sent", sent);
      this.outbox.addEventListener("change", gone);
    });
  }

  /** The server's figures, once it has everything; without a network the last ones stay. */
  async #refreshLater() {
    await this.outbox.flushed();
    await this.refresh();
  }

  async refresh() {
    try {
      this.me = await call("GET", "/api/me");
      this.top.draw();
    } catch (error) {
      if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
    }
  }

  #heard(message) {
    // tabs share the session: whoever signs in elsewhere is signed in here too
    if (message.kind === "leaving") this.outbox?.close();
    if (message.kind === "session" && this.me && (message.annotator !== this.me.annotator || this.outbox.state === "closed")) location.reload();
    if (!this.me || message.annotator !== this.me.annotator) return;
    const onScreen = this.work.sheet && this.work.task.task_id === message.task_id;
    const task = this.queue.tasks.get(message.task_id);
    if (message.kind === "answers") {
      if (task) this.#remember(task, message.answers);
      if (onScreen) this.work.mirror(message.answers);
    } else if (message.kind === "submitted") {
      this.queue.finish(message.task_id);
      if (onScreen && !task?.submitted) { toast("This pair was submitted in another tab."); this.advance(); }
      if (task) task.submitted = true;
    }
  }

  #failed(error) {
    if (error instanceof Refused && error.status === 401) this.askToSignIn(Boolean(error.body.needs_token), SIGN_IN_AGAIN);
    else if (error instanceof Refused && error.status === 403) showScreen("message", messageScreen("No more pairs for you", error.message));
    else if (error instanceof Refused) showScreen("message", messageScreen("This did not work", error.message, () => this.advance()));
    else if (!(error instanceof Unreachable)) throw error;
  }

  #back(state) {
    if (state?.task && this.me && this.work.task?.task_id !== state.task) this.openTask(state.task, false);
  }

  #key(event) {
    if (!this.me || this.settings?.isOpen || event.defaultPrevented) return;
    const focused = document.activeElement;
    if (focused?.matches("input[type=text], textarea, select")) {
      if (focused.matches(".note") && (event.key === "Escape" || event.key === "Enter")) { event.preventDefault(); focused.blur(); document.getElementById("screen").focus({ preventScroll: true }); }
      return;
    }
    const id = this.keymap.actionOf(event);
    if (!id) return;
    if ((event.key === " " || event.key === "Enter") && focused?.matches("button:focus-visible, a, input")) return;
    if (focused?.matches("input[type=range]") && /^Arrow|^Home|^End|^Page/.test(event.key)) return;
    if (id === "help") { event.preventDefault(); this.settings.open(); return; }
    if (document.body.dataset.screen !== "work") return;
    event.preventDefault();
    if (!event.repeat || ["back", "forward", "wipe_left", "wipe_right", "pan_left", "pan_right", "pan_up", "pan_down"].includes(id)) this.work.act(id);
  }
}

new App().start();
