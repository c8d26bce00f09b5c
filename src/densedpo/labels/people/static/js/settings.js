// The dialog with all keys, each of which can be changed, and the page's few settings.

import { button, el, toast } from "./dom.js";
import { capOf, keyOf } from "./keys.js";

const SWITCHES = [
  ["autoplay", "Play as soon as a pair or segment is chosen"],
  ["autosubmit", "Submit with the last answer, without a key of its own"],
  ["caption", "Show the caption, where there is one"],
];

export class Settings {
  constructor(keymap, prefs) {
    this.keymap = keymap;
    this.prefs = prefs;
    this.listening = null; // the action that waits for its new key
    this.dialog = el("dialog", { class: "settings", "aria-label": "Keys and settings" });
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
    this.dialog.addEventListener("cancel", (event) => { if (this.listening) { event.preventDefault(); this.#stop(); } });
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
    document.body.append(this.dialog);
  }

  get isOpen() { return this.dialog.open; }

  open() {
    this.#draw();
    this.dialog.showModal();
  }

  #draw() {
    const groups = Map.groupBy ? Map.groupBy(this.keymap.actions, (action) => action.group) : grouped(this.keymap.actions);
    const tables = [...groups].map(([group, actions]) => el("section", {}, el("h3", { text: group }), el("ul", {}, ...actions.map((action) => this.#row(action)))));
    const themes = el("select", { on: { change: (event) => this.prefs.set("theme", event.target.value) } },
      ...[["system", "as the system"], ["light", "light"], ["dark", "dark"]].map(([value, text]) => el("option", { value, text, selected: this.prefs.get("theme") === value })));
    const switches = SWITCHES.map(([name, text]) => {
      const box = el("input", { type: "checkbox", checked: this.prefs.get(name) });
      box.addEventListener("change", () => this.prefs.set(name, box.checked));
      return el("label", { class: "switch" }, box, el("span", { text }));
    });
    this.dialog.replaceChildren(
      el("header", {}, el("h2", { text: "Keys and settings" }), button("✕", () => this.dialog.close(), { label: "Close", class: "icon" })),
      el("section", { class: "options" }, ...switches, el("label", { class: "switch" }, el("span", { text: "Colours: " }), themes)),
      el("p", { class: "soft", text: "Click a key to change it, then press the new one. Escape keeps the old one." }),
      el("div", { class: "keygroups" }, ...tables),
      el("footer", {}, button("Reset all keys", () => { this.keymap.reset(); this.#draw(); }), button("Close", () => this.dialog.close(), { class: "submit ready" })));
  }

  #row(action) {
    const keys = this.keymap.keys(action.id);
    const text = this.listening === action.id ? "press a key …" : keys.map(capOf).join(" or ") || "none";
    const change = button("", () => { this.listening = action.id; this.#draw(); this.#focus(action.id); }, { class: "keycap", label: `${action.text}: ${text}; change` });
    change.dataset.action = action.id;
    change.append(el("kbd", { text }));
    return el("li", {}, el("span", { text: action.text }), change);
  }

  #focus(id) { this.dialog.querySelector(`[data-action="${id}"]`)?.focus(); }

  #stop() {
    const id = this.listening;
    this.listening = null;
    this.#draw();
    this.#focus(id);
  }

  #key(event) {
    if (!this.listening) return;
    if (event.key === "Tab") { this.#stop(); return; }
    event.preventDefault();
    event.stopPropagation();
    const key = keyOf(event);
    if (key !== null) {
      const loser = this.keymap.bind(this.listening, key);
      if (loser) toast(`${capOf(key)} no longer means “${loser.text}”.`);
      this.#stop();
    } else if (event.key === "Escape") this.#stop();
  }
}

function grouped(actions) {
  const groups = new Map();
  for (const action of actions) groups.set(action.group, [...(groups.get(action.group) ?? []), action]);
  return groups;
}
