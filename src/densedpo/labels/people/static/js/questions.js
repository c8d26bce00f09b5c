// The questions about a whole pair, one row each, with their answers beside them. Draws the sheet and calls actions by name,
// as the panels do; a row's button answers that row, a key the row that is marked.

import { button, el, setAttribute, setText } from "./dom.js";
import { ANSWERS } from "./keys.js";

const CHOICES = ANSWERS.filter(({ id }) => id !== "both_bad");
const HINTS = { first: "the first video", second: "the second video", tie: "no difference that matters", cannot_judge: "something keeps you from judging" };

export class QuestionBoard {
  constructor(keymap, task, act, choose) {
    this.keymap = keymap;
    this.act = act;
    this.choose = choose;
    this.rows = new Map(task.segments.map((part) => [part.index, this.#row(part)]));
    this.undo = button("Undo", () => act("undo"), { class: "small", label: "Undo one step" });
    this.submit = button("", () => act("submit"), { class: "submit" });
    this.submitText = el("span", { text: "Next pair" });
    for (const [node, id] of [[this.undo, "undo"], [this.submit, "submit"]]) {
      if (node === this.submit) node.append(this.submitText);
      node.append(el("kbd", { text: keymap.cap(id), "aria-hidden": "true" }));
    }
    this.node = el("section", { class: "board", "aria-label": "Questions" },
      el("div", { class: "rows" }, ...[...this.rows.values()].map(({ node }) => node)),
      el("div", { class: "finish" }, this.submit, this.undo));
  }

  #row({ index, question }) {
    const answer = (id) => { this.choose(index); this.act(id); };
    const buttons = new Map(CHOICES.map(({ id, text, sign }) => {
      const node = button("", () => answer(id), { class: "answer", data: { answer: id }, label: `${question.name}: ${text}, ${HINTS[id]}` });
      node.append(el("span", { class: "sign", "aria-hidden": "true", text: sign }), el("span", { class: "word", text }), el("kbd", { text: this.keymap.cap(id), "aria-hidden": "true" }));
      return [id, node];
    }));
    const words = el("div", { class: "words", title: question.hint, on: { click: () => this.choose(index) } }, el("b", { text: question.name }), el("span", { text: question.text }));
    const node = el("div", { class: "ask", role: "group", "aria-label": `${question.name}: ${question.text}` }, words, el("div", { class: "choices" }, ...buttons.values()));
    return { node, buttons };
  }

  draw(sheet) {
    for (const [index, { node, buttons }] of this.rows) {
      const { answer, note } = sheet.get(index);
      node.dataset.answer = answer ?? "";
      node.classList.toggle("noted", Boolean(note));
      setAttribute(node, "aria-current", index === sheet.current ? "step" : null);
      for (const [id, item] of buttons) setAttribute(item, "aria-pressed", String(id === answer));
    }
    const left = sheet.open.length;
    this.undo.disabled = sheet.undoable.length === 0;
    setText(this.submitText, left ? `${left} to go` : "Next pair");
    this.submit.classList.toggle("ready", left === 0);
  }
}
