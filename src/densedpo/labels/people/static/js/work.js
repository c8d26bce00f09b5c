// The work screen: one pair at a time, from the queue to the outbox. Keys, clicks and touches all end in `act`.

import { button, el, showScreen, toast } from "./dom.js";
import { ACTIONS, ANSWERS } from "./keys.js";
import { AnswerBar, TagBar, Timeline, Transport } from "./panels.js";
import { QuestionBoard } from "./questions.js";
import { attachGestures } from "./player/gestures.js";
import { LOOPS, Player } from "./player/player.js";
import { LAYOUTS, View } from "./player/view.js";
import { Sheet, WHOLE } from "./sheet.js";

const TEXT = Object.fromEntries(ANSWERS.map(({ id, text }) => [id, text]));
const ANSWERING = new Set(ACTIONS.filter(({ group }) => ["Answer", "Fill the rest", "Tags and note"].includes(group)).map(({ id }) => id));
const ZOOMS = [1, 2, 4, 8];
const GAINS = [1, 2, 4, 8, 16];
const PAN = 0.15;
const NOTE_PAUSE_MS = 700;
const next = (list, value) => list[(list.indexOf(value) + 1) % list.length];

export class Work {
  /** `app`: what the page has once a person is signed in (see main.js). */
  constructor(app) {
    this.app = app;
    this.view = new View();
    this.player = new Player(this.view);
    this.task = null;
    this.sheet = null;
    this.noteTimer = null;
    this.arrived = 0; // when the current segment was reached, for the dwell time
    this.hiddenFor = 0;
    this.actions = this.#actions();
    attachGestures(this.view, () => this.act("play"));
    this.player.addEventListener("change", () => this.#drawPlayer());
    this.player.addEventListener("frame", (event) => this.#drawFrame(event.detail));
    this.view.addEventListener("change", () => this.#drawPlayer());
    document.addEventListener("visibilitychange", () => this.#seen(!document.hidden));
  }

  /** A hidden page plays nothing, and the time does not count as looking. */
  #seen(visible) {
    if (!visible) {
      this.hiddenAt = performance.now();
      this.wasPlaying = this.player.playing;
      this.player.pause();
    } else {
      this.hiddenFor += performance.now() - (this.hiddenAt ?? performance.now());
      if (this.wasPlaying && this.sheet) this.player.play();
    }
  }

  /** Show a task; `pending` answers of the outbox and drafts lie over what the server has. */
  open(task) {
    this.#commitNote();
    const { app } = this;
    this.task = task;
    const later = app.outbox.pendingFor(task.task_id).flatMap((entry) => entry.body.answers ?? []);
    this.sheet = new Sheet(task, later);
    this.sheet.overlay(app.drafts.of(task.task_id));
    this.asks = Boolean(task.segments[0].question); // questions about the whole video instead of segments
    this.begun = false;
    const seek = (frame) => { this.player.pause(); this.player.seek(frame); };
    const act = (id) => this.act(id);
    const choose = (cell) => this.choose(cell);
    const note = (text, done) => this.#note(text, done);
    this.timeline = new Timeline(task, this.asks ? [] : this.sheet.cells, choose, seek);
    this.answers = this.asks ? new QuestionBoard(app.keymap, task, act, choose) : new AnswerBar(app.keymap, act);
    this.tags = this.asks ? new TagBar(app.keymap, act, note, []) : new TagBar(app.keymap, act, note);
    this.transport = new Transport(app.keymap, (id) => this.act(id));
    this.caption = el("p", { class: "caption" });
    this.question = el("p", { class: "question", "aria-live": "polite" });
    this.feedback = el("section", { class: "feedback", hidden: true, "aria-live": "polite" });
    const screen = el("div", { class: this.asks ? "work asks" : "work" }, this.caption, this.view.node, this.transport.node, this.timeline.node, this.question, this.answers.node, this.tags.node, this.feedback);
    screen.addEventListener("pointerdown", (event) => { if (event.target.closest("button")) event.preventDefault(); }); // keys stay with the page
    showScreen("work", screen);
    this.view.setLayout(app.prefs.get("layout"));
    this.view.gain = app.prefs.get("gain");
    this.player.speed = app.prefs.get("speed");
    this.player.loop = app.prefs.get("loop");
    this.player.open(app.queue.clip(task));
    this.busy = false;
    this.#goTo(this.sheet.current);
    this.drawCaption();
    this.view.fit(); // only now have the texts around the pictures taken their room
  }

  drawCaption() {
    const shown = this.app.prefs.get("caption") && Boolean(this.task.caption);
    this.caption.hidden = !shown && this.task.kind !== "review";
    this.caption.textContent = `${this.task.kind === "review" ? "Review · " : ""}${shown ? this.task.caption : ""}`;
  }

  /** Do what a key, a click or a touch stands for. */
  act(id) {
    if (!this.sheet || this.busy) return;
    if (!this.feedback.hidden && ANSWERING.has(id)) { // the answers are in; looking again is welcome
      if (id === "submit") this.app.advance();
      return;
    }
    this.actions[id]?.();
  }

  #actions() {
    const player = this.player;
    const view = this.view;
    const prefs = this.app.prefs;
    const layout = (name) => () => { view.setLayout(name); prefs.set("layout", name); };
    const wipe = (step) => () => view.setWipe(Number(view.wipe.value) + step);
    const speed = (change) => () => { change(); prefs.set("speed", player.speed); };
    return {
      ...Object.fromEntries(ANSWERS.map(({ id }) => [id, () => this.#answer(this.sheet.answer(id))])),
      ...Object.fromEntries(ANSWERS.map(({ id }) => [`rest_${id}`, () => this.#answer(this.sheet.fillRest(id))])),
      ...Object.fromEntries(["limbs", "morphing", "blur", "popping", "impossible_motion"].map((tag) => [`tag_${tag}`, () => this.#post(this.sheet.toggleTag(tag))])),
      ...Object.fromEntries(LAYOUTS.map((name) => [`layout_${name}`, layout(name)])),
      same: () => (this.sheet.lastAnswer ? this.#answer(this.sheet.answer(this.sheet.lastAnswer)) : toast("There is no answer before this one.")),
      rest_same: () => (this.sheet.lastAnswer ? this.#answer(this.sheet.fillRest(this.sheet.lastAnswer)) : toast("There is no answer before this one.")),
      clear: () => this.#post(this.sheet.clear()),
      undo: () => { this.#commitNote(); const back = this.sheet.undo(); if (back.length) { this.#post(back); this.#goTo(this.sheet.current); } },
      submit: () => this.#submit(),
      note: () => this.tags.note.focus(),
      play: () => player.toggle(),
      back: () => player.step(-1),
      forward: () => player.step(1),
      restart: () => player.restart(),
      slower: speed(() => player.faster(-1)),
      faster: speed(() => player.faster(1)),
      normal: speed(() => player.setSpeed(1)),
      loop: () => { player.setLoop(next(this.asks ? LOOPS.slice(1) : LOOPS, player.loop)); prefs.set("loop", player.loop); },
      previous: () => { this.sheet.move(-1); this.#goTo(this.sheet.current); },
      next: () => { this.sheet.move(1); this.#goTo(this.sheet.current); },
      previous_pair: () => this.app.previousPair(this.task.task_id),
      next_pair: () => this.app.advance(),
      flip: () => view.flip(),
      wipe_left: wipe(-5),
      wipe_right: wipe(5),
      gain: () => { view.setGain(next(GAINS, view.gain)); prefs.set("gain", view.gain); },
      zoom: () => (view.zoom.scale >= ZOOMS.at(-1) ? view.resetZoom() : view.setZoom(ZOOMS.find((scale) => scale > view.zoom.scale))),
      pan_left: () => view.pan(-PAN, 0),
      pan_right: () => view.pan(PAN, 0),
      pan_up: () => view.pan(0, -PAN),
      pan_down: () => view.pan(0, PAN),
      caption: () => { prefs.set("caption", !prefs.get("caption")); this.drawCaption(); },
    };
  }

  choose(cell) {
    this.sheet.current = cell;
    this.#goTo(cell);
  }

  #goTo(cell) {
    this.#commitNote();
    this.arrived = performance.now();
    this.hiddenFor = 0;
    const place = this.task.segments.findIndex((segment) => segment.index === cell);
    if (this.asks && this.begun) { this.draw(); return; } // every question is about the video that is running
    this.begun = true;
    const loop = this.app.prefs.get("loop");
    this.player.loop = cell === WHOLE || (this.asks && loop === "segment") ? "whole" : loop;
    if (place >= 0) this.player.choose(place); else this.player.seek(0);
    if (this.app.prefs.get("autoplay") && !document.hidden) this.player.play(); else this.player.pause();
    this.draw();
  }

  #answer(changed) {
    if (!changed.length) return;
    this.#post(changed);
    const complete = this.sheet.open.length === 0 && !this.task.whole;
    if (this.app.prefs.get("autosubmit") && complete && !this.task.submitted) this.#submit();
    else this.#goTo(this.sheet.current);
  }

  /** Keep changed answers: in the outbox where they count, as drafts where there is nothing but a tag or a note yet. */
  #post(changed) {
    if (!changed.length) return;
    const { app, task } = this;
    const dwell = Math.max(0, performance.now() - this.arrived - this.hiddenFor) / 1000;
    const known = new Set(app.posted(task));
    app.drafts.keep(task.task_id, changed);
    const answers = changed.filter((value) => value.answer !== null || known.has(value.segment)).map((value) => ({ ...value, dwell_s: Math.round(dwell * 1000) / 1000 }));
    if (answers.length) app.post(task, answers);
    this.draw();
  }

  #note(text, done) {
    const cell = this.sheet.current;
    clearTimeout(this.noteTimer);
    this.pendingNote = { cell, text };
    this.app.drafts.keep(this.task.task_id, [{ segment: cell, ...this.sheet.get(cell), answer: null, note: text }]);
    if (done) this.#commitNote(); else this.noteTimer = setTimeout(() => this.#commitNote(), NOTE_PAUSE_MS);
  }

  #commitNote() {
    clearTimeout(this.noteTimer);
    const note = this.pendingNote;
    this.pendingNote = null;
    if (note && this.sheet) this.#post(this.sheet.setNote(note.cell, note.text));
  }

  async #submit() {
    this.#commitNote();
    const open = this.sheet.open;
    if (open.length) {
      const noun = this.asks ? "question" : "segment";
      toast(open.length === 1 ? `One ${noun} has no answer yet.` : `${open.length} ${noun}s have no answer yet.`);
      this.choose(open[0]);
      return;
    }
    this.#post(this.sheet.takeOffers());
    this.busy = true;
    try {
      await this.app.submit(this.task);
    } finally {
      this.busy = false;
    }
  }

  /** Take over what another tab answered for the pair on the screen. */
  mirror(answers) {
    for (const answer of answers) this.sheet.put(answer);
    this.draw();
  }

  /** Qualification: what was expected, segment by segment. */
  showFeedback(items) {
    this.player.pause();
    const text = (id) => TEXT[id] ?? id;
    const rows = items.map((item) => el("li", { class: item.correct ? "right" : "wrong" },
      el("b", { text: `${item.correct ? "✓" : "✗"} Segment ${this.task.segments.findIndex((segment) => segment.index === item.segment) + 1}` }),
      el("span", { text: item.correct ? ` ${text(item.expected)}.` : ` Expected: ${text(item.expected)}.` }), el("span", { class: "soft", text: ` ${item.why ?? ""}` })));
    const right = items.filter((item) => item.correct).length;
    this.feedback.replaceChildren(el("h2", { text: `${right} of ${items.length} as expected` }), el("ul", {}, ...rows),
      button(`Go on (${this.app.keymap.cap("submit")})`, () => this.app.advance(), { class: "submit ready" }));
    this.feedback.hidden = false;
    this.answers.node.hidden = true;
    this.tags.node.hidden = true;
  }

  draw() {
    const { sheet } = this;
    this.timeline.draw(sheet);
    this.answers.draw(sheet);
    this.tags.draw(sheet);
    const place = this.task.segments.findIndex((segment) => segment.index === sheet.current);
    const asked = this.task.segments[place]?.question;
    const segment = sheet.current === WHOLE ? "Whole video (optional): which is better?" : `Segment ${place + 1} of ${this.task.segments.length}: which is better?`;
    const what = asked ? `${asked.name}. ${asked.hint}` : segment;
    const state = sheet.offer(sheet.current) ? "The videos hardly differ here; a tie is offered." : sheet.open.length === 0 ? "All answered." : "";
    const others = (this.task.others ?? []).find((item) => item.segment === sheet.current)?.answers ?? [];
    const said = others.length ? ` The labellers said: ${others.map((id) => TEXT[id] ?? id).join(", ")}.` : "";
    this.question.replaceChildren(el(asked ? "span" : "b", { text: what }), ` ${state}`, el("span", { class: "others", text: said }), this.task.submitted ? el("span", { class: "soft", text: " Submitted before; changes are saved at once." }) : "");
    this.#drawPlayer();
  }

  #drawPlayer() {
    if (!this.transport || !this.player.clip) return;
    this.transport.draw(this.player, this.view, this.app.keymap);
    this.view.setWaiting(this.player.waiting);
  }

  #drawFrame({ frame, drift }) {
    this.timeline.drawFrame(frame);
    this.transport.drawFrame(this.player, drift);
  }

  leave() {
    this.#commitNote();
    this.player.pause();
    this.sheet = null;
  }
}
