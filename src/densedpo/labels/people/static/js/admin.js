// The team page: progress, agreement, people and their flags, and new invites. Draws what /api/admin/overview gives.

import { Refused, call } from "./api.js";
import { bars, estimate, intervals, shares } from "./charts.js";
import { button, duration, el, toast } from "./dom.js";
import { Prefs, applyTheme } from "./prefs.js";

const REFRESH_MS = 20000;
const ANSWER_NAMES = { a: "a better", b: "b better", tie: "tie", both_bad: "both bad", cannot_judge: "cannot judge" };
const ROLES = ["annotator", "reviewer", "admin"];

const tile = (value, text) => el("div", { class: "tile" }, el("b", { text: value }), el("span", { text }));
const panel = (title, ...content) => el("section", { class: "panel" }, el("h2", { text: title }), ...content);
const nothing = () => el("p", { class: "soft", text: "Nothing yet." });

function tiles(data) {
  const { done = 0, total = 0, seconds_left: left } = data.team ?? {};
  const disagreements = data.disagreements ?? {};
  return el("div", { class: "tiles" },
    tile(`${done} / ${total}`, `${data.unit ?? "labellings"} done (pairs × people)`), tile(left === 0 ? "nothing" : typeof left === "number" ? duration(left) : "–", left === 0 ? "left to do" : "of work left"),
    tile(String((data.people ?? []).length), "people"),
    tile(String((data.people ?? []).filter((person) => person.flags?.length).length), "with a flag"),
    data.disagreements === null ? null : tile(`${disagreements.open ?? 0}`, `disagreements open, ${disagreements.resolved ?? 0} resolved`));
}

function short(e) {
  if (!e) return el("td", { class: "number", text: "–" });
  if (typeof e.value !== "number") return el("td", { class: "number soft", text: "–", title: e.undefined });
  const range = typeof e.low === "number" && typeof e.high === "number" ? ` ${e.low.toFixed(2)}–${e.high.toFixed(2)}` : "";
  return el("td", { class: "number", title: estimate(e) }, e.value.toFixed(2), el("small", { text: range }));
}

/** `rates`: whether people's rates are part of what is shown; a running study shows progress only. */
function people(rows, rates) {
  if (!rows?.length) return nothing();
  const measures = rates ? [["Ties", "tie_rate"], ["First", "first_rate"], ["Gold", "gold"], ["Repeats", "self_consistency"]] : [];
  const heads = [["Who", ""], ["Role", ""], ["Pairs", "number"], ["Median time", "number"], ...measures.map(([text]) => [text, "number"]), ["Flags", ""], ["Last seen", ""]];
  const body = rows.map((person) => el("tr", {},
    el("td", { text: person.annotator }), el("td", { text: person.role }), el("td", { class: "number", text: person.done }),
    el("td", { class: "number", text: typeof person.median_dwell_s === "number" ? `${person.median_dwell_s.toFixed(1)} s` : "–" }),
    ...measures.map(([, name]) => short(person[name])),
    el("td", {}, ...(person.flags ?? []).map((flag) => el("span", { class: "flag", text: flag }))),
    el("td", { class: "soft", text: person.last_seen ? new Date(person.last_seen).toLocaleString() : "–" })));
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads.map(([text, kind]) => el("th", { scope: "col", class: kind, text })))), el("tbody", {}, ...body)));
}

function estimates(rows, label) {
  if (!rows?.length) return nothing();
  const list = rows.map((row) => el("li", {}, el("b", { text: `${row.name}: ` }), estimate(row)));
  const known = rows.filter((row) => typeof row.value === "number");
  const low = known.some((row) => (row.low ?? row.value) < 0) ? -1 : 0;
  return el("div", {}, known.length ? intervals(known, low, 1, label) : null, el("ul", { class: "soft" }, ...list));
}

function dwell(data) {
  if (!data?.counts?.length) return nothing();
  return bars(data.counts, data.counts.map((_, place) => `${data.edges_s[place]} s`), "Time spent on a segment");
}

function invite(roles) {
  const name = el("input", { type: "text", placeholder: "Name", "aria-label": "Name", maxlength: 100, required: true });
  const role = el("select", { "aria-label": "Role" }, ...roles.map((value) => el("option", { value, text: value })));
  const link = el("output", {});
  const form = el("form", { class: "invite" }, name, role, el("button", { type: "submit", text: "Make an invite link" }), link);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const reply = await call("POST", "/api/admin/invite", { name: name.value.trim(), role: role.value });
      link.textContent = reply.link;
    } catch (error) {
      toast(error.message, "error");
    }
  });
  return form;
}

function draw(data, place) {
  const days = data.team?.by_day ?? [];
  const answers = Object.entries(ANSWER_NAMES).map(([id, name]) => ({ id, name, count: data.answers?.[id] ?? 0 }));
  const rates = data.answers !== null;
  place.replaceChildren(
    tiles(data),
    el("div", { class: "panels" },
      panel("Pairs a day", days.length ? bars(days.map((day) => day.done), days.map((day) => day.day.slice(5)), "Pairs a day") : nothing()),
      ...(rates ? [
        panel("Answers", shares(answers, "Answers"), el("p", { class: "soft", text: "a and b as stored, not as shown." })),
        panel("Agreement between people", estimates(data.agreement, "Agreement between people")),
        panel("People against judges", estimates(data.against_judges, "People against judges")),
        panel("Time on a segment", dwell(data.dwell)),
      ] : [panel("Answers", el("p", { class: "soft", text: data.hidden }))])),
    panel("People", people(data.people, rates)));
}

async function start() {
  applyTheme(new Prefs());
  document.getElementById("top").append(el("div", { class: "mark", "aria-hidden": "true" }, el("i"), el("i")), el("b", { text: "The team" }), el("span", { class: "grow" }),
    el("nav", { "aria-label": "Pages" }, button("Refresh", () => refresh()), el("a", { href: "/", text: "To the work" })));
  const place = el("div");
  const title = el("h1", { text: "Labelling: the team" });
  const root = el("div", { class: "admin" }, title, place);
  const refresh = async () => {
    try {
      const data = await call("GET", "/api/admin/overview");
      draw(data, place);
      if (data.title) title.textContent = document.title = data.title;
      if (root.childElementCount === 2) root.append(panel("Invite", invite(data.roles ?? ROLES)));
      if (!root.isConnected) document.getElementById("screen").replaceChildren(root);
    } catch (error) {
      const text = error instanceof Refused && (error.status === 401 || error.status === 403) ? "Only an admin may see this page. Sign in on the first page with an admin's invite." : error.message;
      if (root.isConnected) toast(text, "error");
      else document.getElementById("screen").replaceChildren(el("div", { class: "card narrow" }, el("h1", { text: "The team" }), el("p", { text }), el("a", { href: "/", text: "To the first page" })));
    }
  };
  await refresh();
  setInterval(() => { if (!document.hidden && root.isConnected) refresh(); }, REFRESH_MS);
}

start();
