// The controls below the videos: the timeline, the answers, tags and note, and the transport. They draw a state and call
// an action by its name; what an action does is decided in work.js.

import { button, el, setAttribute, setText } from "./dom.js";
import { ANSWERS, TAGS } from "./keys.js";
import { LAYOUTS } from "./player/view.js";
import { WHOLE } from "./sheet.js";

const BY_ID = Object.fromEntries(ANSWERS.map((answer) => [answer.id, answer]));
const LAYOUT_SIGNS = { side: "▯▯", stacked: "▭▭", flip: "⇄", wipe: "◫", difference: "|−|" };
const LAYOUT_NAMES = { side: "Side by side", stacked: "Stacked", flip: "Flip", wipe: "Wipe", difference: "Difference" };
const LOOP_NAMES = { segment: "segment", whole: "whole video", off: "off" };

function cap(keymap, id) { return el("kbd", { text: keymap.cap(id), "aria-hidden": "true" }); }

/** Segments as a row of buttons, as wide as they are long, with the playhead over them. */
export class Timeline {
  constructor(task, cells, choose, seek) {
    this.task = task;
    this.cells = new Map(cells.map((cell) => [cell, this.#cell(cell, choose)]));
    this.head = el("div", { class: "head", "aria-hidden": "true" });
    const segments = cells.filter((cell) => cell !== WHOLE).map((cell) => this.cells.get(cell).node);
    this.scrub = el("input", { type: "range", class: "scrub", min: 0, max: task.num_frames - 1, step: 1, value: 0, "aria-label": "Frame" });
    this.scrub.addEventListener("input", () => seek(Number(this.scrub.value)));
    this.track = el("div", { class: "track" }, el("div", { class: "segments" }, ...segments), this.scrub, this.head);
    const whole = this.cells.get(WHOLE);
    this.node = el("section", { class: "timeline", "aria-label": "Segments" }, this.track, whole ? whole.node : null);
  }

  #cell(cell, choose) {
    const segment = this.task.segments.find((item) => item.index === cell);
    const sign = el("span", { class: "sign", "aria-hidden": "true" });
    const extra = el("span", { class: "extra", "aria-hidden": "true" });
    const name = segment ? String(this.task.segments.indexOf(segment) + 1) : "whole";
    const label = el("span", { class: "number", "aria-hidden": "true", text: name });
    const node = button("", () => choose(cell), { class: segment ? "cell" : "cell whole" });
    node.append(label, sign, extra);
    if (segment) node.style.setProperty("--share", String(segment.num_frames));
    return { node, sign, extra, segment };
  }

  draw(sheet) {
    for (const [cell, { node, sign, extra, segment }] of this.cells) {
      const { answer, tags, note, offered } = sheet.get(cell);
      const offer = sheet.offer(cell);
      const shown = BY_ID[answer ?? offer];
      node.dataset.answer = answer ?? "";
      node.classList.toggle("offer", offer !== null);
      setAttribute(node, "aria-current", cell === sheet.current ? "step" : null);
      setText(sign, shown ? shown.sign + (offer ? "?" : "") : "");
      setText(extra, [tags.length ? `#${tags.length}` : "", note ? "✎" : ""].join(" ").trim());
      const place = segment
        ? `Segment ${this.task.segments.indexOf(segment) + 1} of ${this.task.segments.length}, ${segment.start_s.toFixed(1)} to ${segment.end_s.toFixed(1)} seconds`
        : "Whole video";
      const said = answer ? `${BY_ID[answer].text}${offered ? ", taken as offered" : ""}` : offer ? "tie offered" : "no answer yet";
      setAttribute(node, "aria-label", [place, said, tags.length ? `tags: ${tags.join(", ")}` : "", note ? "has a note" : ""].filter(Boolean).join(": "));
    }
  }

  drawFrame(frame) {
    this.scrub.value = String(frame);
    this.scrub.setAttribute("aria-valuetext", `frame ${frame + 1} of ${this.task.num_frames}`);
    this.head.style.setProperty("--at", String((frame + 0.5) / this.task.num_frames));
  }
}

/** The five answers, submit and what helps to be quick. */
export class AnswerBar {
  constructor(keymap, act) {
    this.buttons = new Map(ANSWERS.map(({ id, text, sign, hint }) => {
      const node = button("", () => act(id), { class: "answer", data: { answer: id }, label: `${text}: ${hint}` });
      node.append(el("span", { class: "sign", "aria-hidden": "true", text: sign }), el("span", { text }), cap(keymap, id));
      return [id, node];
    }));
    const small = (id, text, label) => {
      const node = button(text, () => act(id), { class: "small", label });
      node.append(cap(keymap, id));
      return node;
    };
    this.submit = button("", () => act("submit"), { class: "submit" });
    this.submitText = el("span", { text: "Submit" });
    this.submit.append(this.submitText, cap(keymap, "submit"));
    this.undo = small("undo", "Undo", "Undo one step");
    this.node = el("section", { class: "answers", "aria-label": "Answer" },
      el("div", { class: "five" }, ...this.buttons.values()),
      el("div", { class: "quick" }, small("same", "Same", "Same answer as before"), small("rest_same", "Fill rest", "The rest: same as before"), this.undo),
      this.submit);
  }

  draw(sheet) {
    const { answer } = sheet.get(sheet.current);
    for (const [id, node] of this.buttons) setAttribute(node, "aria-pressed", String(id === answer));
    this.undo.disabled = sheet.undoable.length === 0;
    const left = sheet.open.length;
    const offers = sheet.cells.filter((cell) => sheet.offer(cell) !== null).length;
    setText(this.submitText, left ? `${left} to go` : offers ? `Submit + ${offers} offered ${offers === 1 ? "tie" : "ties"}` : "Submit");
    this.submit.classList.toggle("ready", left === 0);
  }
}

/** What is wrong in a segment, in the words of the artifact list, and a free note. */
export class TagBar {
  /** `tags`: none where only notes are asked for. */
  constructor(keymap, act, onNote, tags = TAGS) {
    this.tags = new Map(tags.map(({ id, text, hint }) => {
      const node = button(text, () => act(`tag_${id}`), { class: "tag", label: `${text}: ${hint}` });
      node.append(cap(keymap, `tag_${id}`));
      return [id, node];
    }));
    this.note = el("input", { type: "text", class: "note", maxlength: 2000, placeholder: `Note (${keymap.cap("note")})`, "aria-label": tags.length ? "Note on this segment" : "Note on this question", autocomplete: "off" });
    this.note.addEventListener("input", () => onNote(this.note.value, false));
    this.note.addEventListener("change", () => onNote(this.note.value, true));
    this.node = el("section", { class: "tags", "aria-label": tags.length ? "Tags and note" : "Note" }, ...this.tags.values(), this.note);
  }

  draw(sheet) {
    const { tags, note } = sheet.get(sheet.current);
    for (const [id, node] of this.tags) setAttribute(node, "aria-pressed", String(tags.includes(id)));
    if (document.activeElement !== this.note && this.note.value !== note) this.note.value = note;
  }
}

/** Play, step, speed, loop and layout, with the frame and the drift in figures. */
export class Transport {
  constructor(keymap, act) {
    const one = (id, text, label) => button(text, () => act(id), { class: "icon", label: `${label} (${keymap.cap(id)})` });
    this.play = one("play", "▶", "Play or pause");
    this.speed = button("1×", () => act("normal"), { class: "figure", label: `Speed; click for normal speed (${keymap.cap("normal")})` });
    this.loop = button("", () => act("loop"), { class: "figure" });
    this.layouts = LAYOUTS.map((layout) => {
      const node = button("", () => act(`layout_${layout}`), { class: "icon", label: `${LAYOUT_NAMES[layout]} (${keymap.cap(`layout_${layout}`)})` });
      node.dataset.layout = layout;
      node.append(el("span", { class: "word", text: LAYOUT_NAMES[layout] }), el("span", { class: "glyph", "aria-hidden": "true", text: LAYOUT_SIGNS[layout] }));
      return node;
    });
    this.flip = one("flip", "⇄ flip", "Flip to the other video");
    this.gain = one("gain", "", "Amplify the difference more");
    this.zoom = one("zoom", "1×", "Zoom in");
    this.clock = el("output", { class: "clock", "aria-live": "off" });
    this.drift = el("output", { class: "drift", "aria-live": "off", title: "Frames between the two pictures, by their own time stamps: now, and at most since the pair was opened" });
    const group = (label, ...items) => el("div", { class: "group", role: "group", "aria-label": label }, ...items);
    this.node = el("section", { class: "transport", "aria-label": "Player" },
      group("Play", one("back", "◂", "One frame back"), this.play, one("forward", "▸", "One frame forward"), one("restart", "↺", "Start of the loop")),
      group("Speed", one("slower", "−", "Slower"), this.speed, one("faster", "+", "Faster")),
      this.loop,
      group("Layout", ...this.layouts), group("Zoom", this.zoom), this.flip, this.gain,
      el("div", { class: "figures" }, this.clock, this.drift));
  }

  draw(player, view, keymap) {
    setText(this.play, player.playing ? "❚❚" : "▶");
    setAttribute(this.play, "aria-label", `${player.playing ? "Pause" : "Play"} (${keymap.cap("play")})`);
    setText(this.speed, `${player.speed}×`);
    setText(this.loop, `⟳ ${LOOP_NAMES[player.loop]}`);
    setAttribute(this.loop, "aria-label", `Loop: ${LOOP_NAMES[player.loop]} (${keymap.cap("loop")})`);
    for (const node of this.layouts) setAttribute(node, "aria-pressed", String(node.dataset.layout === view.layout));
    this.flip.hidden = view.layout !== "flip";
    this.gain.hidden = view.layout !== "difference";
    setText(this.gain, `×${view.gain}`);
    setText(this.zoom, `Zoom ${Math.round(view.zoom.scale * 10) / 10}×`);
  }

  drawFrame(player, drift) {
    const { frame, clip } = player;
    setText(this.clock, `${(frame / clip.fps).toFixed(2)} s · ${frame + 1}/${clip.numFrames}`);
    setText(this.drift, `drift ${drift} (max ${player.worst}) frames`);
    this.drift.dataset.frame = String(frame);
  }
}
