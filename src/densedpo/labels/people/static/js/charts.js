// Plots as plain SVG. Every plot carries its figures as text, so that it can be read without being seen.

const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 520;

function svg(tag, attributes = {}, text = null) {
  const node = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  if (text !== null) node.textContent = text;
  return node;
}

function plot(height, label, nodes) {
  const root = svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label });
  root.append(...nodes);
  return root;
}

/** Bars of counts; `names` below them, at most a dozen written out. */
export function bars(counts, names, label) {
  const height = 170;
  const [left, bottom, top] = [34, 24, 14];
  const most = Math.max(1, ...counts);
  const step = (WIDTH - left) / Math.max(1, counts.length);
  const every = Math.ceil(counts.length / 12);
  const y = (value) => height - bottom - (value / most) * (height - bottom - top);
  const nodes = [svg("line", { class: "axis", x1: left, x2: WIDTH, y1: y(0), y2: y(0) }), svg("line", { class: "grid", x1: left, x2: WIDTH, y1: y(most), y2: y(most) }),
    svg("text", { class: "soft", x: left - 6, y: y(most) + 4, "text-anchor": "end" }, String(most))];
  counts.forEach((count, place) => {
    const x = left + place * step;
    const bar = svg("rect", { class: "bar", x: x + 1, width: Math.max(1, Math.min(46, step - 2)), y: y(count), height: y(0) - y(count), rx: 2 });
    bar.append(svg("title", {}, `${names[place]}: ${count}`));
    nodes.push(bar);
    if (place % every === 0) nodes.push(svg("text", { class: "soft", x: x + 1, y: height - 7 }, names[place]));
  });
  return plot(height, `${label}: ${counts.map((count, place) => `${names[place]} ${count}`).join(", ")}`, nodes);
}

/** Values with their intervals on one axis from `low` to `high`. */
export function intervals(rows, low, high, label) {
  const [line, left, bottom] = [30, 210, 22];
  const height = rows.length * line + bottom;
  const x = (value) => left + ((Math.max(low, Math.min(high, value)) - low) / (high - low)) * (WIDTH - left - 12);
  const nodes = [];
  for (const tick of [low, (low + high) / 2, high]) {
    nodes.push(svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: 0, y2: height - bottom }));
    nodes.push(svg("text", { class: "soft", x: x(tick), y: height - 6, "text-anchor": "middle" }, String(tick)));
  }
  rows.forEach((row, place) => {
    const y = place * line + line / 2;
    nodes.push(svg("text", { x: 0, y: y + 4 }, row.name));
    if (typeof row.low === "number" && typeof row.high === "number") nodes.push(svg("line", { class: "range", x1: x(row.low), x2: x(row.high), y1: y, y2: y }));
    const point = svg("circle", { class: "point", cx: x(row.value), cy: y, r: 6 });
    point.append(svg("title", {}, estimate(row)));
    nodes.push(point);
  });
  return plot(height, `${label}: ${rows.map((row) => `${row.name} ${estimate(row)}`).join("; ")}`, nodes);
}

/** One bar of shares with a legend. */
export function shares(parts, label) {
  const total = parts.reduce((sum, part) => sum + part.count, 0);
  const nodes = [];
  let x = 0;
  parts.forEach((part, place) => {
    const width = total ? (part.count / total) * WIDTH : 0;
    const bar = svg("rect", { "data-answer": part.id, x: x + 0.5, y: 0, width: Math.max(0, width - 1), height: 26 });
    bar.append(svg("title", {}, `${part.name}: ${part.count}`));
    const [column, row] = [place % 3, Math.floor(place / 3)];
    nodes.push(bar, svg("rect", { "data-answer": part.id, x: column * 175, y: 40 + row * 22, width: 11, height: 11, rx: 2 }),
      svg("text", { x: column * 175 + 17, y: 50 + row * 22 }, `${part.name}: ${part.count}${total ? ` (${Math.round((100 * part.count) / total)} %)` : ""}`));
    x += width;
  });
  return plot(86, `${label}: ${parts.map((part) => `${part.name} ${part.count}`).join(", ")}`, nodes);
}

/** "0.71 [0.62, 0.79], n = 120", or why there is no figure. */
export function estimate(e) {
  if (!e) return "–";
  if (typeof e.value !== "number") return e.undefined ?? "–";
  const range = typeof e.low === "number" && typeof e.high === "number" ? ` [${e.low.toFixed(2)}, ${e.high.toFixed(2)}]` : "";
  return `${e.value.toFixed(2)}${range}${e.n === undefined || e.n === null ? "" : `, n = ${e.n}`}`;
}
