// The quiet screens: signing in, a message, the list of one's own pairs, and the end of the work.

import { Refused } from "./api.js";
import { button, duration, el } from "./dom.js";

/** Ask for a name, or for an invite where the server wants one; `enter` gets what to post. */
export function signInScreen(needsToken, problem, enter) {
  const input = el("input", { type: "text", name: "name", autocomplete: needsToken ? "off" : "username", maxlength: 2000, required: true, id: "signin" });
  const trouble = el("p", { class: "trouble", role: "alert", text: problem });
  const form = el("form", { class: "card narrow" },
    el("h1", { text: "Compare two videos" }),
    el("label", { for: "signin", text: needsToken ? "Open your invite link, or paste it here" : "Your name" }), input,
    el("button", { type: "submit", class: "submit ready", text: "Start" }), trouble);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const value = input.value.trim();
    if (!value) return;
    try {
      await enter(needsToken ? { token: value.split("#token=").at(-1) } : { name: value });
    } catch (error) {
      trouble.textContent = error instanceof Refused ? error.message : "The server cannot be reached.";
    }
  });
  setTimeout(() => input.focus());
  return form;
}

export function messageScreen(title, text, again) {
  return el("div", { class: "card narrow" }, el("h1", { text: title }), el("p", { text }), again ? button("Try again", again, { class: "submit ready" }) : null);
}

/** Own recent pairs; each can be opened and changed. */
export function historyScreen(app, tasks) {
  const rows = tasks.map((task, place) => el("tr", {},
    el("td", {}, button(task.caption ?? `Pair ${tasks.length - place}`, () => app.openTask(task.task_id), { class: "link" })),
    el("td", { text: `${task.answered} of ${task.total}` }),
    el("td", { text: task.submitted ? "✓ submitted" : "open" }),
    el("td", { class: "soft when", text: task.at ? new Date(task.at).toLocaleString() : "" })));
  const table = el("table", {}, el("thead", {}, el("tr", {}, ...["Pair", "Answered", "State", "Last change"].map((text) => el("th", { scope: "col", class: text === "Last change" ? "when" : null, text })))), el("tbody", {}, ...rows));
  return el("div", { class: "card wide" }, el("h1", { text: "My pairs" }),
    tasks.length ? table : el("p", { text: "Nothing yet." }), button("Back to the work", () => app.advance(), { class: "submit ready" }));
}

export function doneScreen(app) {
  const { done = 0, team_done: teamDone, team_total: teamTotal, seconds_left: left } = app.me.progress ?? {};
  const [did, all] = app.me.settings?.questions?.length ? ["compared", "That was all."] : ["labelled", "Everything is labelled."];
  const team = teamTotal && teamDone < teamTotal
    ? `Together ${teamDone} of ${teamTotal} are done${left ? `; ${duration(left)} of work is left for the others` : ""}.` : all;
  return el("div", { class: "card narrow done" },
    el("div", { class: "tick", "aria-hidden": "true", text: "✓" }), el("h1", { text: "Done. Thank you." }),
    el("p", { text: `You ${did} ${done} ${done === 1 ? "pair" : "pairs"}. ${team}` }),
    el("p", { class: "soft", text: "All answers are stored. You may close this page, or look at your pairs again." }),
    el("div", { class: "row" }, button("My pairs", () => app.openHistory()), button("Is there more?", () => app.advance(), { class: "submit ready" })));
}
