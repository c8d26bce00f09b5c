// The answer sheet of one pair: one cell a segment, and one for the whole video where it is asked. Knows nothing of the
// page or the network; every change is returned as what has to be posted.

export const WHOLE = -1;

const EMPTY = { answer: null, tags: [], note: "", offered: false };

export class Sheet {
  /** `task` as the server gave it; `later`: answers posted since, oldest first. */
  constructor(task, later = []) {
    this.task = task;
    this.cells = [...task.segments.map((segment) => segment.index), ...(task.whole ? [WHOLE] : [])];
    this.offers = new Map(task.segments.map((segment) => [segment.index, segment.offered ?? null]));
    this.answers = new Map();
    for (const given of [...(task.answers ?? []), ...later]) this.put(given);
    this.undoable = [];
    this.current = this.firstOpen() ?? this.cells[0];
    this.lastAnswer = null;
  }

  /** Take over an answer given elsewhere, without posting it. */
  put({ segment, answer, tags, note, offered }) {
    if (this.cells.includes(segment)) {
      this.answers.set(segment, { answer: answer ?? null, tags: tags ?? [], note: note ?? "", offered: Boolean(offered) });
    }
  }

  /** Lay drafts over the answers: they bring tags and notes only. */
  overlay(drafts) {
    for (const { segment, tags, note } of drafts) this.put({ ...this.get(segment), segment, tags, note });
  }

  get(cell) { return this.answers.get(cell) ?? EMPTY; }

  /** The offer for a cell that has no answer yet. */
  offer(cell) { return this.get(cell).answer === null ? this.offers.get(cell) ?? null : null; }

  isOpen(cell) { return this.get(cell).answer === null && this.offer(cell) === null && cell !== WHOLE; }

  firstOpen() { return this.cells.find((cell) => this.isOpen(cell)); }

  /** Cells without an answer and without an offer; the whole video is never demanded. */
  get open() { return this.cells.filter((cell) => this.isOpen(cell)); }

  get answered() { return this.cells.filter((cell) => this.get(cell).answer !== null).length; }

  /** Change cells together: one step of undo. Returns the changed answers. */
  change(cells, patch) {
    const before = cells.map((cell) => ({ segment: cell, ...this.get(cell) }));
    this.undoable.push({ before, current: this.current });
    return cells.map((cell) => this.#write({ segment: cell, ...this.get(cell), ...patch }));
  }

  #write(value) {
    const { segment, answer, tags, note, offered } = value;
    this.answers.set(segment, { answer, tags, note, offered });
    return { segment, answer, tags, note, offered };
  }

  /** Answer the current cell and move to the next open one. */
  answer(answer) {
    const changed = this.change([this.current], { answer, offered: false });
    this.lastAnswer = answer;
    this.current = this.#after(this.current);
    return changed;
  }

  /** Answer the current cell and every open one after it. */
  fillRest(answer) {
    const start = this.cells.indexOf(this.current);
    const rest = this.cells.filter((cell, place) => cell !== WHOLE && (place === start || (place > start && this.isOpen(cell))));
    if (!rest.length) return [];
    const changed = this.change(rest, { answer, offered: false });
    this.lastAnswer = answer;
    this.current = this.firstOpen() ?? (this.task.whole ? WHOLE : rest.at(-1));
    return changed;
  }

  /** Next open cell, first after this one, then before it; then the whole video, or simply the next cell. */
  #after(cell) {
    const place = this.cells.indexOf(cell);
    const open = [...this.cells.slice(place + 1), ...this.cells.slice(0, place)].find((other) => this.isOpen(other));
    if (open !== undefined) return open;
    if (this.task.whole && this.get(WHOLE).answer === null) return WHOLE;
    return this.cells[Math.min(place + 1, this.cells.length - 1)];
  }

  toggleTag(tag) {
    const { tags } = this.get(this.current);
    return this.change([this.current], { tags: tags.includes(tag) ? tags.filter((item) => item !== tag) : [...tags, tag] });
  }

  setNote(cell, note) { return this.get(cell).note === note ? [] : this.change([cell], { note }); }

  clear() { return this.get(this.current).answer === null ? [] : this.change([this.current], { answer: null, offered: false }); }

  /** Take the last step back; returns the answers that are valid again. */
  undo() {
    const step = this.undoable.pop();
    if (!step) return [];
    this.current = step.current;
    return step.before.map((value) => this.#write(value));
  }

  /** Turn the remaining offers into answers, marked as offered. */
  takeOffers() {
    const offered = this.cells.filter((cell) => this.offer(cell) !== null);
    return offered.length ? this.change(offered, { answer: "tie", offered: true }) : [];
  }

  move(steps) {
    const place = this.cells.indexOf(this.current) + steps;
    this.current = this.cells[Math.max(0, Math.min(this.cells.length - 1, place))];
  }
}
