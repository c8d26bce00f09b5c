// The clock: one position in frames for both sides. A frame is painted only when both sides have it, so the sides cannot
// drift apart; where a frame is late, the clock waits for it instead of showing another.

export const SPEEDS = [0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4];
export const LOOPS = ["segment", "whole", "off"];

export class Player extends EventTarget {
  constructor(view) {
    super();
    this.view = view;
    this.clip = null;
    this.position = 0; // in frames; its whole part is the frame to show
    this.segment = 0;
    this.shown = -1;
    this.playing = false;
    this.loop = "segment";
    this.speed = 1;
    this.waiting = false;
    this.worst = 0; // largest drift since the pair was opened, in frames
    this.scheduled = 0;
    this.last = 0;
  }

  open(clip) {
    if (this.clip && this.clip !== clip) {
      this.clip.listener = () => {};
      this.clip.rest();
    }
    this.clip = clip;
    this.position = clip.segments[0].first_frame;
    Object.assign(this, { segment: 0, shown: -1, worst: 0, waiting: true });
    clip.listener = () => this.#schedule();
    this.view.open(clip.task.width, clip.task.height);
    this.#refill();
    clip.ready.then(() => { if (this.clip === clip) { this.#refill(); this.#schedule(); } });
    this.#changed();
  }

  /** First and one-past-last frame of what is looped. */
  get range() {
    if (this.loop !== "segment") return [0, this.clip.numFrames];
    const { first_frame: start, num_frames: count } = this.clip.segments[this.segment];
    return [start, start + count];
  }

  get frame() { return Math.max(0, Math.min(this.clip.numFrames - 1, Math.floor(this.position + 1e-6))); }

  /** Frames in the order in which they will be needed. */
  * #order() {
    const [start, stop] = this.range;
    const now = this.frame;
    const inside = now >= start && now < stop;
    for (let i = inside ? now : start; i < stop; i += 1) yield i;
    for (let i = inside ? now - 1 : start - 1; i >= start; i -= 1) yield i;
    for (let i = stop; i < this.clip.numFrames; i += 1) yield i;
    for (let i = 0; i < start; i += 1) yield i;
  }

  #refill() { this.clip.want(() => this.#order()); }

  play() {
    const [start, stop] = this.range;
    if (this.position < start || this.position >= stop - (this.loop === "off" ? 1 : 0)) this.position = start;
    this.playing = true;
    this.last = performance.now();
    this.#refill();
    this.#schedule();
    this.#changed();
  }

  pause() {
    if (!this.clip) return;
    this.playing = false;
    this.position = this.frame;
    this.#changed();
  }

  toggle() { if (this.playing) this.pause(); else this.play(); }

  /** Show the frame `count` frames away, staying inside what is looped. */
  step(count) {
    this.playing = false;
    const [start, stop] = this.range;
    const wrapped = this.loop === "off" ? Math.max(start, Math.min(stop - 1, this.frame + count))
      : start + ((this.frame - start + count) % (stop - start) + (stop - start)) % (stop - start);
    this.seek(wrapped);
  }

  seek(frame) {
    this.position = Math.max(0, Math.min(this.clip.numFrames - 1, frame));
    this.#refill();
    this.#schedule();
    this.#changed();
  }

  /** Go to the start of a segment. */
  choose(segment) {
    this.segment = Math.max(0, Math.min(this.clip.segments.length - 1, segment));
    this.seek(this.clip.segments[this.segment].first_frame);
  }

  restart() { this.seek(this.range[0]); }

  setLoop(loop) {
    this.loop = loop;
    const [start, stop] = this.range;
    this.seek(this.frame >= start && this.frame < stop ? this.frame : start);
  }

  setSpeed(speed) {
    this.speed = speed;
    this.#changed();
  }

  faster(steps) {
    const nearest = SPEEDS.reduce((best, speed) => (Math.abs(speed - this.speed) < Math.abs(best - this.speed) ? speed : best));
    this.setSpeed(SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, SPEEDS.indexOf(nearest) + steps))]);
  }

  #schedule() {
    if (!this.scheduled) this.scheduled = requestAnimationFrame((now) => { this.scheduled = 0; this.#tick(now); });
  }

  #tick(now) {
    if (!this.clip?.sources) return;
    if (this.playing) this.#advance(Math.max(0, now - this.last) / 1000);
    this.last = now;
    const frame = this.frame;
    const there = this.clip.has(frame);
    if (there && frame !== this.shown) this.#paint(frame);
    if (this.waiting === there) { this.waiting = !there; this.#changed(); }
    if (this.playing) this.#schedule();
  }

  /** Move the clock by `seconds`; it stays on a frame that has not been shown yet. */
  #advance(seconds) {
    if (this.frame !== this.shown && !this.clip.has(this.frame)) return;
    const [start, stop] = this.range;
    let next = this.position + Math.min(seconds, 0.5) * this.clip.fps * this.speed;
    if (next > stop - 1e-5) { // rounding must not show the frame after the loop
      if (this.loop === "off") { next = stop - 1; this.playing = false; this.#changed(); } else next = start + (Math.max(0, next - stop) % (stop - start));
    }
    const target = Math.floor(next + 1e-6);
    this.position = this.clip.has(target) ? next : this.#nearest(target, start, stop);
  }

  /** Where the clock waits for a late frame: at its very start, or on the last frame before it that can be shown. */
  #nearest(target, start, stop) {
    for (let frame = target; frame > this.frame && frame >= start && frame < stop; frame -= 1) {
      if (this.clip.has(frame)) return frame + 0.999;
    }
    return target;
  }

  #paint(frame) {
    this.view.paint(...this.clip.pictures(frame), this.clip.errors);
    this.shown = frame;
    this.worst = Math.max(this.worst, this.clip.drift(frame));
    this.dispatchEvent(new CustomEvent("frame", { detail: { frame, drift: this.clip.drift(frame) } }));
  }

  #changed() { this.dispatchEvent(new CustomEvent("change")); }
}
