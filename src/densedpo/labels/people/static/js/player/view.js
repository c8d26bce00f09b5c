// The stage: both pictures in one of five layouts, with one zoom for both.

import { el } from "../dom.js";

export const LAYOUTS = ["side", "stacked", "flip", "wipe", "difference"];
const MAX_ZOOM = 8;
const NAMES = { first: "First video", second: "Second video" };

export class View extends EventTarget {
  constructor() {
    super();
    this.layout = "side";
    this.gain = 4;
    this.zoom = { scale: 1, x: 0, y: 0 }; // x, y: left upper corner of what is seen, as a share of the picture
    this.flipped = false;
    this.width = 16;
    this.height = 9;
    this.pictures = [null, null];
    this.canvases = Object.fromEntries(["first", "second", "difference"].map((side) => [side, el("canvas", { role: "img" })]));
    this.panes = Object.fromEntries(Object.entries(this.canvases).map(([side, canvas]) => [
      side, el("div", { class: "pane", data: { side } }, canvas, this.#sign(side), el("p", { class: "broken", hidden: true })),
    ]));
    this.wipe = el("input", { type: "range", class: "wipe", min: 0, max: 100, step: 0.5, value: 50, "aria-label": "Wipe: how much of the first video is seen" });
    this.wipe.addEventListener("input", () => this.setWipe(Number(this.wipe.value)));
    this.divider = el("div", { class: "divider", "aria-hidden": "true" });
    this.spinner = el("p", { class: "spinner", hidden: true, text: "loading the video …" });
    this.frame = el("div", { class: "panes" }, ...Object.values(this.panes), this.divider);
    this.node = el("section", { class: "stage", "aria-label": "Videos", data: { layout: "side" } }, this.frame, this.wipe, this.spinner);
    new ResizeObserver(() => this.fit()).observe(this.node);
    this.setWipe(50);
    this.#label();
  }

  #sign(side) {
    const text = { first: "1", second: "2", difference: "|1 − 2|" }[side];
    return el("span", { class: "sign", "aria-hidden": "true", text });
  }

  #label() {
    for (const [side, canvas] of Object.entries(this.canvases)) {
      canvas.setAttribute("aria-label", NAMES[side] ?? `Difference of both videos, ${this.gain} times amplified`);
    }
    this.panes.difference.querySelector(".sign").textContent = `|1 − 2| × ${this.gain}`;
  }

  open(width, height) {
    Object.assign(this, { width, height, pictures: [null, null], flipped: false });
    this.resetZoom();
    for (const canvas of Object.values(this.canvases)) Object.assign(canvas, { width, height });
    for (const pane of Object.values(this.panes)) pane.querySelector(".broken").hidden = true;
    this.node.dataset.shown = "first";
    this.fit();
  }

  paint(first, second, errors = {}) {
    this.pictures = [first, second];
    const size = first ?? second;
    if (size && (size.width !== this.canvases.first.width || size.height !== this.canvases.first.height)) {
      Object.assign(this, { width: size.width, height: size.height });
      for (const canvas of Object.values(this.canvases)) Object.assign(canvas, { width: size.width, height: size.height });
      this.fit();
    }
    for (const [side, picture] of [["first", first], ["second", second]]) {
      if (picture) this.canvases[side].getContext("2d").drawImage(picture, 0, 0);
      const broken = this.panes[side].querySelector(".broken");
      broken.hidden = !errors[side];
      if (errors[side]) broken.textContent = `This video cannot be shown: ${errors[side]}. “Cannot judge” is a fair answer.`;
    }
    if (this.layout === "difference") this.#subtract(first, second);
  }

  /** |first - second|, doubled by adding it to itself until the gain is reached. */
  #subtract(first, second) {
    const canvas = this.canvases.difference;
    const context = canvas.getContext("2d");
    context.globalCompositeOperation = "copy";
    if (first) context.drawImage(first, 0, 0);
    context.globalCompositeOperation = "difference";
    if (second) context.drawImage(second, 0, 0);
    context.globalCompositeOperation = "lighter";
    for (let gain = 1; gain < this.gain; gain *= 2) context.drawImage(canvas, 0, 0);
  }

  setLayout(layout) {
    this.layout = layout;
    this.node.dataset.layout = layout;
    if (layout === "difference") this.#subtract(...this.pictures);
    this.fit();
    this.#changed();
  }

  /** Show the other video in the same place. */
  flip() {
    if (this.layout !== "flip") { this.setLayout("flip"); return; }
    this.flipped = !this.flipped;
    this.node.dataset.shown = this.flipped ? "second" : "first";
    this.#changed();
  }

  setGain(gain) {
    this.gain = gain;
    this.#label();
    if (this.layout === "difference") this.#subtract(...this.pictures);
    this.#changed();
  }

  setWipe(percent) {
    const value = Math.max(0, Math.min(100, percent));
    this.wipe.value = String(value);
    this.node.style.setProperty("--wipe", `${value}%`);
  }

  /** Largest size at which the panes of the layout fit into the stage. */
  fit() {
    const across = this.layout === "side" ? 2 : 1;
    const down = this.layout === "stacked" ? 2 : 1;
    const gap = 8;
    const box = this.node.getBoundingClientRect();
    const slider = this.layout === "wipe" ? 34 : 0;
    const room = [(box.width - gap * (across - 1)) / across, (box.height - slider - gap * (down - 1)) / down];
    const scale = Math.max(0.05, Math.min(room[0] / this.width, room[1] / this.height));
    this.node.style.setProperty("--pane-width", `${Math.floor(this.width * scale)}px`);
    this.node.style.setProperty("--pane-height", `${Math.floor(this.height * scale)}px`);
    this.node.classList.toggle("pixels", scale * this.zoom.scale * window.devicePixelRatio > 3);
  }

  setZoom(scale, centreX = 0.5, centreY = 0.5) {
    const old = this.zoom;
    const now = Math.max(1, Math.min(MAX_ZOOM, scale));
    const at = (corner, centre) => corner + centre / old.scale - centre / now; // what lies under the pointer stays there
    this.zoom = { scale: now, x: at(old.x, centreX), y: at(old.y, centreY) };
    this.pan(0, 0);
    this.fit();
  }

  resetZoom() {
    this.zoom = { scale: 1, x: 0, y: 0 };
    this.pan(0, 0);
  }

  /** Move what is seen by a share of the pane. */
  pan(dx, dy) {
    const most = 1 - 1 / this.zoom.scale;
    const inside = (value) => Math.max(0, Math.min(most, value));
    this.zoom.x = inside(this.zoom.x + dx / this.zoom.scale);
    this.zoom.y = inside(this.zoom.y + dy / this.zoom.scale);
    for (const [name, value] of [["--zoom", this.zoom.scale], ["--x", -this.zoom.x], ["--y", -this.zoom.y]]) {
      this.node.style.setProperty(name, String(value));
    }
    this.#changed();
  }

  setWaiting(waiting) { this.spinner.hidden = !waiting; }

  #changed() { this.dispatchEvent(new CustomEvent("change")); }
}
