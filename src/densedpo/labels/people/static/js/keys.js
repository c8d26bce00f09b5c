// Every action of the page that has a key, the keys as they come, and a person's own changes to them.

export const ANSWERS = [
  { id: "first", text: "First", sign: "1", hint: "the first video is better here" },
  { id: "second", text: "Second", sign: "2", hint: "the second video is better here" },
  { id: "tie", text: "Tie", sign: "=", hint: "neither is better" },
  { id: "both_bad", text: "Both bad", sign: "✕✕", hint: "neither is usable" },
  { id: "cannot_judge", text: "Cannot judge", sign: "?", hint: "something keeps you from judging" },
];
export const TAGS = [
  { id: "limbs", text: "Limbs", hint: "parts of a body or thing are missing, doubled or bent" },
  { id: "morphing", text: "Morphing", hint: "something changes its shape or melts into another" },
  { id: "blur", text: "Blur", hint: "something is smeared or out of focus" },
  { id: "popping", text: "Popping", hint: "something appears, vanishes or flickers" },
  { id: "impossible_motion", text: "Impossible motion", hint: "something jumps, stops or slides as nothing can" },
];
const TAG_KEYS = ["y", "u", "i", "o", "p"];

/** All actions in the order in which they are listed; `keys` are the defaults. */
export const ACTIONS = [
  ...ANSWERS.map(({ id, text }, place) => ({ id, group: "Answer", text, keys: [String(place + 1)] })),
  { id: "same", group: "Answer", text: "Same answer as before", keys: ["d"] },
  { id: "clear", group: "Answer", text: "Take the answer back", keys: ["delete"] },
  { id: "undo", group: "Answer", text: "Undo one step", keys: ["backspace", "ctrl+z"] },
  { id: "submit", group: "Answer", text: "Submit the pair, next pair", keys: ["enter"] },
  ...ANSWERS.map(({ id, text }, place) => ({ id: `rest_${id}`, group: "Fill the rest", text: `The rest: ${text.toLowerCase()}`, keys: [`shift+${place + 1}`] })),
  { id: "rest_same", group: "Fill the rest", text: "The rest: same as before", keys: ["f"] },
  ...TAGS.map(({ id, text }, place) => ({ id: `tag_${id}`, group: "Tags and note", text, keys: [TAG_KEYS[place]] })),
  { id: "note", group: "Tags and note", text: "Write a note (Escape leaves it)", keys: ["n"] },
  { id: "play", group: "Play", text: "Play or pause", keys: ["space"] },
  { id: "back", group: "Play", text: "One frame back", keys: ["left", ","] },
  { id: "forward", group: "Play", text: "One frame forward", keys: ["right", "."] },
  { id: "restart", group: "Play", text: "Back to the start of the loop", keys: ["home"] },
  { id: "slower", group: "Play", text: "Slower", keys: ["-"] },
  { id: "faster", group: "Play", text: "Faster", keys: ["=", "+"] },
  { id: "normal", group: "Play", text: "Normal speed", keys: ["0"] },
  { id: "loop", group: "Play", text: "Loop: segment, whole video, off", keys: ["l"] },
  { id: "previous", group: "Go to", text: "Segment before", keys: ["up", "k"] },
  { id: "next", group: "Go to", text: "Next segment", keys: ["down", "j"] },
  { id: "previous_pair", group: "Go to", text: "Pair before", keys: ["pageup"] },
  { id: "next_pair", group: "Go to", text: "Back to the work", keys: ["pagedown"] },
  { id: "layout_side", group: "Look", text: "Side by side", keys: ["q"] },
  { id: "layout_stacked", group: "Look", text: "One above the other", keys: ["w"] },
  { id: "layout_flip", group: "Look", text: "In one place, flip", keys: ["e"] },
  { id: "layout_wipe", group: "Look", text: "Wipe", keys: ["r"] },
  { id: "layout_difference", group: "Look", text: "Difference", keys: ["t"] },
  { id: "flip", group: "Look", text: "Flip to the other video", keys: ["x"] },
  { id: "wipe_left", group: "Look", text: "Wipe to the left", keys: ["["] },
  { id: "wipe_right", group: "Look", text: "Wipe to the right", keys: ["]"] },
  { id: "gain", group: "Look", text: "Amplify the difference more", keys: ["m"] },
  { id: "zoom", group: "Look", text: "Zoom in (after the last step: out)", keys: ["z"] },
  { id: "pan_left", group: "Look", text: "Zoomed: move left", keys: ["shift+left"] },
  { id: "pan_right", group: "Look", text: "Zoomed: move right", keys: ["shift+right"] },
  { id: "pan_up", group: "Look", text: "Zoomed: move up", keys: ["shift+up"] },
  { id: "pan_down", group: "Look", text: "Zoomed: move down", keys: ["shift+down"] },
  { id: "caption", group: "Look", text: "Show or hide the caption", keys: ["c"] },
  { id: "help", group: "Page", text: "Keys and settings", keys: ["h", "?"] },
];

/** What differs where questions are asked about the whole video: no segments, no tags, and the answers that are left. */
const ASKED = {
  cannot_judge: { keys: ["4", "5"] },
  rest_cannot_judge: { keys: ["shift+4", "shift+5"] },
  note: { group: "Note" },
  loop: { text: "Loop: whole video, off" },
  previous: { text: "Question before" },
  next: { text: "Next question" },
};

/** The actions of a page that asks `questions`, or about segments where there are none. */
export function actionsFor(questions) {
  if (!questions?.length) return ACTIONS;
  const left = ACTIONS.filter(({ id }) => !id.startsWith("tag_") && !id.endsWith("both_bad"));
  return left.map((action) => ({ ...action, ...ASKED[action.id] }));
}

const NAMES = {
  " ": "space", arrowleft: "left", arrowright: "right", arrowup: "up", arrowdown: "down", esc: "escape", del: "delete",
};
const SIGNS = {
  space: "Space", left: "←", right: "→", up: "↑", down: "↓", enter: "Enter", backspace: "Bksp", delete: "Del", home: "Home",
  pageup: "PgUp", pagedown: "PgDn", shift: "⇧", ctrl: "Ctrl", alt: "Alt", end: "End", insert: "Ins", "-": "−",
};
const FIXED = new Set(["tab", "escape", "shift", "control", "alt", "meta", "capslock", "dead", "process", "unidentified", "f5", "f12"]);

/** Name of the key of an event, "shift+1" for example; null for what cannot be a key of ours. */
export function keyOf(event) {
  let key = event.key.toLowerCase();
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  const letter = /^Key([A-Z])$/.exec(event.code);
  if (digit) key = digit[1]; // also where digits need shift
  else if (letter && !/^[a-z]$/.test(key)) key = letter[1].toLowerCase(); // other scripts: by the place of the key
  key = NAMES[key] ?? key;
  if (FIXED.has(key) || event.metaKey || event.altKey) return null;
  const plainSign = key.length === 1 && !/[a-z0-9]/.test(key); // its shift is part of the sign
  return `${event.ctrlKey ? "ctrl+" : ""}${event.shiftKey && !plainSign ? "shift+" : ""}${key}`;
}

/** A key as it is written on a key cap. */
export function capOf(key) {
  if (key === "+" || key.endsWith("++")) return key;
  return key.split("+").map((part) => SIGNS[part] ?? (part.length === 1 ? part.toUpperCase() : part)).join(" ");
}

export class Keymap extends EventTarget {
  /** `given`: the team's keys by action, from the server; `actions`: those that the page has. */
  constructor(given = {}, actions = ACTIONS, store = window.localStorage) {
    super();
    this.actions = actions;
    this.store = store;
    this.given = given ?? {};
    this.own = {};
    try { this.own = JSON.parse(store.getItem("densedpo/keys")) ?? {}; } catch { /* none stored */ }
  }

  keys(id) {
    const action = this.actions.find((item) => item.id === id);
    const chosen = this.own[id] ?? this.given[id] ?? action?.keys ?? [];
    return (Array.isArray(chosen) ? chosen : [chosen]).filter((key) => typeof key === "string");
  }

  cap(id) { return this.keys(id).length ? capOf(this.keys(id)[0]) : ""; }

  actionOf(event) {
    const key = keyOf(event);
    return key === null ? null : this.actions.find((action) => this.keys(action.id).includes(key))?.id ?? null;
  }

  /** Give `key` to an action; returns the action that lost it, if any. */
  bind(id, key) {
    const loser = this.actions.find((action) => action.id !== id && this.keys(action.id).includes(key)) ?? null;
    if (loser) this.own[loser.id] = this.keys(loser.id).filter((item) => item !== key);
    this.own[id] = [key];
    this.#save();
    return loser;
  }

  reset() {
    this.own = {};
    this.#save();
  }

  #save() {
    try { this.store.setItem("densedpo/keys", JSON.stringify(this.own)); } catch { /* kept for this visit only */ }
    this.dispatchEvent(new CustomEvent("change"));
  }
}
