"use strict";
// Players: all videos of one figure on one clock. The first video leads; the others are steered to its time.
(() => {
  const STEER_FRAMES = 0.2; // drift from which a follower's speed is bent
  const JUMP_FRAMES = 1.5; // drift from which it is moved at once

  class Player {
    constructor(figure) {
      this.figure = figure;
      this.fps = Number(figure.dataset.fps);
      this.frames = Number(figure.dataset.frames);
      this.videos = [...figure.querySelectorAll("video")];
      this.lead = this.videos[0];
      this.scrub = figure.querySelector(".scrub");
      this.clock = figure.querySelector(".clock");
      this.segments = [...figure.querySelectorAll(".segment")];
      this.speed = 1;
      this.loop = true;
      this.playing = false;
      this.turning = false; // on the way back to the start of the loop
      this.range = [0, this.frames / this.fps];
      this.ticket = 0; // a later seek overtakes an earlier one
      for (const segment of this.segments) {
        segment.style.flexGrow = String(segment.dataset.stop - segment.dataset.start);
        segment.addEventListener("click", () => this.choose(segment));
      }
      for (const control of figure.querySelectorAll("[data-do]")) {
        const event = control.tagName === "SELECT" ? "change" : "click";
        control.addEventListener(event, () => this.act(control.dataset.do, control));
      }
      for (const video of this.videos) video.addEventListener("click", () => this.act("play"));
      this.scrub.addEventListener("input", () => { this.pause(); this.show(Number(this.scrub.value)); });
      figure.addEventListener("keydown", (event) => this.key(event));
      this.say(0);
    }

    load() {
      for (const video of this.videos) {
        if (!video.getAttribute("src")) { video.src = video.dataset.src; video.preload = "auto"; video.load(); }
      }
    }

    unload() { // browsers allow only some dozens of open videos at once
      this.pause();
      for (const video of this.videos) {
        if (video.getAttribute("src")) { video.removeAttribute("src"); video.load(); }
      }
      this.say(0);
    }

    frame(time) { return Math.max(0, Math.min(this.frames - 1, Math.floor(time * this.fps + 1e-3))); }

    say(frame) {
      this.scrub.value = String(frame);
      this.clock.textContent = `${(frame / this.fps).toFixed(2)} s · ${frame + 1}/${this.frames}`;
      this.scrub.setAttribute("aria-valuetext", `frame ${frame + 1} of ${this.frames}`);
    }

    async seek(time) { // true once every video stands there, false where a later seek came first
      const ticket = ++this.ticket;
      this.load();
      await Promise.all(this.videos.map((video) => new Promise((done) => {
        const go = () => {
          video.addEventListener("seeked", done, { once: true });
          video.currentTime = Math.min(time, Math.max(0, (video.duration || time) - 0.5 / this.fps));
        };
        video.addEventListener("error", done, { once: true });
        if (video.readyState >= 1) go(); else video.addEventListener("loadedmetadata", go, { once: true });
      })));
      return ticket === this.ticket;
    }

    show(frame) {
      const place = Math.max(0, Math.min(this.frames - 1, frame));
      this.say(place);
      return this.seek((place + 0.5) / this.fps); // the middle of the frame, safe from rounding
    }

    async play() {
      this.playing = true;
      this.mark();
      const now = this.lead.currentTime;
      const [start, stop] = this.range;
      const inside = now >= start - 0.5 / this.fps && now < stop - 1 / this.fps;
      await this.start(inside ? now : start);
    }

    async start(time) {
      this.turning = true;
      const first = await this.seek(time);
      if (!first || !this.playing) return;
      for (const video of this.videos) video.playbackRate = this.speed;
      await Promise.allSettled(this.videos.map((video) => video.play()));
      this.turning = false;
      this.tick();
    }

    pause() {
      this.playing = false;
      this.turning = false;
      for (const video of this.videos) video.pause();
      this.mark();
    }

    tick() {
      if (!this.playing || this.turning) return;
      const now = this.lead.currentTime;
      const stop = this.range[1];
      if (now >= stop - 0.02 || this.lead.ended) {
        for (const video of this.videos) video.pause();
        if (this.loop) { this.start(this.range[0]); } else { this.pause(); this.show(this.frame(stop - 0.5 / this.fps)); }
        return;
      }
      for (const video of this.videos.slice(1)) this.steer(video, now);
      this.say(this.frame(now));
      requestAnimationFrame(() => this.tick());
    }

    steer(video, now) {
      const drift = (video.currentTime - now) * this.fps;
      if (video.ended || video.seeking) return;
      if (Math.abs(drift) > JUMP_FRAMES) video.currentTime = now;
      const bend = Math.abs(drift) > STEER_FRAMES ? Math.max(-0.25, Math.min(0.25, -drift * 0.25)) : 0;
      const rate = this.speed * (1 + bend);
      if (Math.abs(video.playbackRate - rate) > 0.01) video.playbackRate = rate;
    }

    choose(segment) {
      const again = segment.getAttribute("aria-pressed") === "true";
      for (const other of this.segments) other.setAttribute("aria-pressed", String(other === segment && !again));
      this.range = again ? [0, this.frames / this.fps] : [Number(segment.dataset.start), Number(segment.dataset.stop)];
      for (const video of this.videos) video.pause();
      this.playing = true;
      this.mark();
      this.start(this.range[0] + 0.25 / this.fps);
    }

    async step(count) {
      this.pause();
      await this.show(Number(this.scrub.value) + count);
    }

    act(what, control) {
      if (what === "play") { if (this.playing) this.pause(); else this.play(); }
      if (what === "back") this.step(-1);
      if (what === "forward") this.step(1);
      if (what === "loop") {
        this.loop = !this.loop;
        control.setAttribute("aria-pressed", String(this.loop));
      }
      if (what === "speed") {
        this.speed = Number(control.value);
        for (const video of this.videos) video.playbackRate = this.speed;
      }
    }

    key(event) {
      if (event.target.matches("select") || event.ctrlKey || event.metaKey || event.altKey) return;
      const onButton = event.target.matches("button");
      if (event.key === " " && !onButton) { event.preventDefault(); this.act("play"); }
      if (event.key === "ArrowLeft" && onButton) this.step(-1); // the slider moves by itself
      if (event.key === "ArrowRight" && onButton) this.step(1);
    }

    mark() {
      const button = this.figure.querySelector('[data-do="play"]');
      button.textContent = this.playing ? "❚❚" : "▶";
      button.setAttribute("aria-label", this.playing ? "Pause" : "Play");
    }
  }

  const players = new Map([...document.querySelectorAll(".player")].map((figure) => [figure, new Player(figure)]));
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const player = players.get(target);
      if (isIntersecting) player.load(); else player.unload();
    }
  }, { rootMargin: "400px" });
  for (const figure of players.keys()) near.observe(figure);
})();
