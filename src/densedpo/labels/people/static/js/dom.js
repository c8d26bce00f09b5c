// Building the page: elements from plain descriptions. Data reach the page as text only, never as markup.

/** Make an element. `props`: class, text, on (listeners by event), data (data-*), css (custom properties), any other attribute. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = String(value);
    else if (name === "class") node.className = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "css") for (const [key, item] of Object.entries(value)) node.style.setProperty(key, String(item));
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** A button that runs `action`; `label` is read out where `text` is only a sign. */
export function button(text, action, props = {}) {
  const { label, ...rest } = props;
  return el("button", { type: "button", "aria-label": label, title: rest.title ?? label, on: { click: action }, ...rest }, text);
}

/** Set an attribute only where it differs: screen readers are told of changes, not of repetitions. */
export function setAttribute(node, name, value) {
  if (value === null || value === false) { if (node.hasAttribute(name)) node.removeAttribute(name); return; }
  const text = value === true ? "" : String(value);
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Say something in passing, seen and read out. */
export function toast(text, kind = "note") {
  const place = document.getElementById("toasts");
  for (const old of place.children) if (old.textContent === text) old.remove();
  const item = el("p", { class: `toast ${kind}`, text });
  place.append(item);
  setTimeout(() => item.remove(), kind === "error" ? 9000 : 3500);
}

/** Replace what the screen shows and move the focus to it. */
export function showScreen(name, ...nodes) {
  const screen = document.getElementById("screen");
  document.body.dataset.screen = name;
  screen.replaceChildren(...nodes);
  screen.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

/** "about 3 h 10 min", "about 4 min", "less than a minute". */
export function duration(seconds) {
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return "less than a minute";
  return minutes < 60 ? `about ${minutes} min` : `about ${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
