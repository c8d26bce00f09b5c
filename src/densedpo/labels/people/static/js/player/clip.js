// A pair as the player needs it: both videos, loaded whole, and the frames decoded so far.

import { fetchBlob, patiently } from "../api.js";
import { FrameSource } from "./frames.js";

const BYTES_A_PIXEL = 4;
const SIDES = ["first", "second"];

/** How many bytes of pictures one pair may keep. */
function budget() {
  const gigabytes = navigator.deviceMemory ?? 4;
  return (gigabytes >= 8 ? 1024 : gigabytes >= 4 ? 512 : 256) * 2 ** 20;
}

export class Clip {
  constructor(task) {
    this.task = task;
    this.fps = task.fps;
    this.numFrames = task.num_frames;
    this.segments = task.segments;
    this.sources = null;
    this.urls = [];
    this.errors = { first: null, second: null };
    this.abort = new AbortController();
    this.listener = () => {};
    this.order = () => this.#firstSegment(); // until a player says otherwise
    this.ready = this.#load();
  }

  async #load() {
    const blobs = await Promise.all(SIDES.map((side) => this.#fetch(side)));
    if (this.abort.signal.aborted) return;
    const capacity = Math.max(8, Math.floor(budget() / 2 / (this.task.width * this.task.height * BYTES_A_PIXEL)));
    this.sources = blobs.map((blob, place) => {
      const url = URL.createObjectURL(blob ?? new Blob([]));
      this.urls.push(url);
      const onFrame = (frame) => {
        const failed = this.sources?.[place].failed;
        if (failed) this.errors[SIDES[place]] ??= failed;
        this.listener(frame);
      };
      return new FrameSource({ url, fps: this.fps, numFrames: this.numFrames, capacity, onFrame });
    });
    this.want(this.order);
  }

  async #fetch(side) {
    try {
      return await patiently(() => fetchBlob(this.task.media[side], this.abort.signal), {
        onWait: () => { if (this.abort.signal.aborted) throw new Error("closed"); },
      });
    } catch (error) {
      this.errors[side] = error.message;
      return null;
    }
  }

  * #firstSegment() {
    const { first_frame: start, num_frames: count } = this.segments[0];
    for (let frame = start; frame < start + count; frame += 1) yield frame;
  }

  want(order) {
    this.order = order;
    for (const source of this.sources ?? []) source.want(order);
  }

  /** Whether both sides have this frame, so that it may be shown. */
  has(frame) { return this.sources !== null && this.sources.every((source) => source.has(frame)); }

  /** How many frames lie between the pictures of both sides, by their own time stamps. */
  drift(frame) {
    const [first, second] = this.sources.map((source) => source.stamp(frame));
    return Math.abs(first - second);
  }

  pictures(frame) { return this.sources.map((source) => source.get(frame)); }

  /** Share of a stretch of frames that both sides have. */
  held(start, stop) {
    let count = 0;
    for (let frame = start; frame < stop; frame += 1) if (this.has(frame)) count += 1;
    return count / Math.max(1, stop - start);
  }

  /** Keep the videos, but none of their pictures: the pair is off the screen. */
  rest() {
    this.order = () => [];
    for (const source of this.sources ?? []) source.release();
  }

  close() {
    this.abort.abort();
    this.listener = () => {};
    for (const source of this.sources ?? []) source.close();
    for (const url of this.urls) URL.revokeObjectURL(url);
    this.sources = null;
  }
}
