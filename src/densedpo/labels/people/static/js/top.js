// The bar above every screen: progress, whether everything is saved, and the way to the other screens.

import { button, duration, el, setAttribute, setText, toast } from "./dom.js";

export class Top {
  constructor(app) {
    this.app = app;
    this.progress = el("progress", { max: 1, value: 0, "aria-label": "Your progress" });
    this.figures = el("span", { class: "figures" });
    this.saved = button("", () => this.#askedAboutSaving(), { class: "saved" });
    this.who = el("span", { class: "who" });
    this.admin = el("a", { href: "/admin", text: "Admin" });
    const links = el("nav", { "aria-label": "Pages" },
      button("Work", () => app.advance()), button("Instructions", () => app.instructions()), button("My pairs", () => app.openHistory()),
      this.admin, button("Keys", () => app.settings.open()));
    document.getElementById("top").replaceChildren(el("div", { class: "mark", "aria-hidden": "true" }, el("i"), el("i")), this.progress, this.figures, this.saved, el("span", { class: "grow" }), this.who, links);
    app.outbox.addEventListener("change", () => this.drawSaved());
    window.addEventListener("offline", () => this.drawSaved());
    window.addEventListener("online", () => this.drawSaved());
    this.drawSaved();
  }

  /** Try again what waits; say once more what the server will never take, and be done with it. */
  #askedAboutSaving() {
    const { outbox } = this.app;
    for (const { reason } of outbox.refused()) toast(`Not taken by the server: ${reason}`, "error");
    outbox.forgetRefused();
    outbox.hurry();
  }

  draw() {
    const { annotator, role, progress = {}, stage } = this.app.me;
    const { done = 0, total = 0, seconds_left: left } = progress;
    this.progress.max = Math.max(1, total);
    this.progress.value = done;
    const time = typeof left === "number" && done && done < total ? ` · ${duration(left)} left` : "";
    setText(this.figures, stage === "qualification" ? "Qualification round" : `${done} of ${total} pairs${time}`);
    setText(this.who, role === "annotator" ? annotator : `${annotator} · ${role}`);
    this.admin.hidden = role !== "admin";
  }

  drawSaved() {
    const { outbox } = this.app;
    const waiting = outbox.entries().length;
    const refused = outbox.refused().length;
    const offline = outbox.state === "waiting" || outbox.state === "signed out" || !navigator.onLine;
    const state = refused ? "refused" : offline && waiting ? "offline" : waiting ? "sending" : "saved";
    const text = {
      refused: `⚠ ${refused} not taken by the server`, offline: `⚠ no connection · ${waiting} kept here`, sending: "saving …", saved: "✓ saved",
    }[state];
    setText(this.saved, text);
    setAttribute(this.saved, "data-state", state);
    setAttribute(this.saved, "aria-label", { offline: `${text}; try again now`, refused: `${text}; say why and forget` }[state] ?? text);
  }
}
