// A person's own settings of the page, kept in this browser.

const NAME = "densedpo/prefs";
export const DEFAULTS = {
  theme: "system", layout: "side", gain: 4, autoplay: true, autosubmit: false, caption: true, speed: 1, loop: "segment",
};

export class Prefs extends EventTarget {
  constructor(store = window.localStorage) {
    super();
    this.store = store;
    this.values = { ...DEFAULTS };
    try { Object.assign(this.values, JSON.parse(store.getItem(NAME)) ?? {}); } catch { /* none stored */ }
  }

  get(name) { return this.values[name]; }

  set(name, value) {
    if (this.values[name] === value) return;
    this.values[name] = value;
    try { this.store.setItem(NAME, JSON.stringify(this.values)); } catch { /* kept for this visit only */ }
    this.dispatchEvent(new CustomEvent("change", { detail: { name, value } }));
  }

  /** Settings of the team count until a person has chosen otherwise. */
  suggest(values) {
    let stored = {};
    try { stored = JSON.parse(this.store.getItem(NAME)) ?? {}; } catch { /* none stored */ }
    for (const [name, value] of Object.entries(values)) {
      if (value !== undefined && value !== null && !(name in stored)) this.values[name] = value;
    }
  }
}

/** Keep the theme of the document as chosen; "system" leaves it to the browser. */
export function applyTheme(prefs) {
  const set = () => {
    if (prefs.get("theme") === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = prefs.get("theme");
  };
  prefs.addEventListener("change", set);
  set();
}
