// One side of a pair: turns a video into pictures, frame by frame, and keeps them up to a budget. A frame is fetched by
// seeking to its middle and is known by the time stamp of the picture that the browser then presents, so that a picture
// is never taken for another frame.

const WAIT_MS = 3000; // after this a frame is taken as the browser shows it
const HAS_CALLBACK = "requestVideoFrameCallback" in HTMLVideoElement.prototype;

export class FrameSource {
  /** `url`: a blob URL; `capacity`: how many pictures are kept. `onFrame` is called with each frame that arrived. */
  constructor({ url, fps, numFrames, capacity, onFrame }) {
    Object.assign(this, { url, fps, numFrames, capacity, onFrame });
    this.pictures = new Map();
    this.stamps = new Map(); // the frame that a picture truly is, by its time stamp
    this.order = () => []; // which frames are wanted, most urgent first
    this.failed = null;
    this.closed = false;
    this.wake = () => {};
    this.video = document.createElement("video");
    Object.assign(this.video, { muted: true, playsInline: true, preload: "auto", disableRemotePlayback: true });
    this.#run();
  }

  has(frame) { return this.failed !== null || this.pictures.has(frame); }

  get(frame) { return this.pictures.get(frame) ?? null; }

  /** The frame number on the time stamp of the picture kept for `frame`. */
  stamp(frame) { return this.stamps.get(frame) ?? frame; }

  /** Ask for other frames: `order` gives them, most urgent first. */
  want(order) {
    this.order = order;
    this.wake();
  }

  /** Give the pictures back to the memory; the video stays. */
  release() {
    this.order = () => [];
    for (const picture of this.pictures.values()) picture.close();
    this.pictures.clear();
  }

  close() {
    this.closed = true;
    this.release();
    this.wake();
    this.video.removeAttribute("src");
    this.video.load();
  }

  async #run() {
    try {
      await this.#open();
      while (!this.closed) {
        const frame = document.hidden ? null : this.#next(); // hidden tabs are shown no frames
        if (frame === null) await this.#sleep();
        else await this.#fetch(frame);
      }
    } catch (error) {
      if (this.closed) return;
      this.failed = error.message || "the video cannot be decoded";
      this.onFrame(null);
    }
  }

  #open() {
    return new Promise((done, fail) => {
      this.video.addEventListener("loadeddata", done, { once: true });
      this.video.addEventListener("error", () => fail(new Error("the video cannot be decoded")), { once: true });
      this.video.src = this.url;
    });
  }

  #sleep() {
    return new Promise((done) => {
      this.wake = done;
      document.addEventListener("visibilitychange", done, { once: true });
    });
  }

  #next() {
    const wanted = new Set();
    for (const frame of this.order()) {
      if (wanted.size >= this.capacity) break;
      wanted.add(frame);
    }
    const missing = [...wanted].find((frame) => !this.pictures.has(frame));
    if (missing === undefined) return null;
    for (const [frame, picture] of this.pictures) {
      if (this.pictures.size < this.capacity) break;
      if (wanted.has(frame)) continue;
      picture.close();
      this.pictures.delete(frame);
    }
    return missing;
  }

  async #fetch(frame) {
    const presented = this.#presented(frame);
    this.video.currentTime = (frame + 0.5) / this.fps;
    const stamp = await presented;
    if (this.closed || document.hidden) return;
    const picture = await createImageBitmap(this.video);
    if (this.closed) { picture.close(); return; }
    this.pictures.set(frame, picture);
    this.stamps.set(frame, stamp);
    this.onFrame(frame);
  }

  /** Wait until the browser presents `frame`; returns the frame that its time stamp names. */
  #presented(frame) {
    return new Promise((done, fail) => {
      let last = frame;
      let handle = 0;
      const finish = () => {
        clearTimeout(timer);
        if (HAS_CALLBACK) this.video.cancelVideoFrameCallback(handle);
        this.video.removeEventListener("error", broken);
        this.video.removeEventListener("seeked", seeked);
        done(last);
      };
      const broken = () => { clearTimeout(timer); fail(new Error("the video cannot be decoded")); };
      const look = (_, { mediaTime }) => {
        last = Math.round(mediaTime * this.fps);
        if (last === frame) finish(); else handle = this.video.requestVideoFrameCallback(look);
      };
      const seeked = () => requestAnimationFrame(() => requestAnimationFrame(finish));
      const timer = setTimeout(finish, WAIT_MS);
      this.video.addEventListener("error", broken, { once: true });
      if (HAS_CALLBACK) handle = this.video.requestVideoFrameCallback(look);
      else this.video.addEventListener("seeked", seeked, { once: true });
    });
  }
}
