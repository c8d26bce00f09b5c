// What the work is, with examples from the drawn world, and the keys as they are now.

import { button, el } from "./dom.js";
import { ANSWERS, TAGS } from "./keys.js";

const EXAMPLES = [
  ["jump", "first", "The second square jumps to another place. The first moves as it should."],
  ["deformed", "second", "The first shape wobbles and melts. Tag: morphing."],
  ["freeze", "second", "The first stops and then goes on as if nothing had been. A still picture is not better for being still."],
  ["tie", "tie", "Both are clean. A small difference in size or shade that does not matter is a tie."],
  ["both", "both_bad", "The first is a blur, the second flickers. Neither is usable here."],
  ["vanished", "first", "The second shape vanishes for a moment. Tag: popping."],
];
const CALM = window.matchMedia("(prefers-reduced-motion: reduce)");
const TEXT = Object.fromEntries(ANSWERS.map(({ id, text }) => [id, text]));

function example([name, answer, text]) {
  const video = el("video", { src: `/static/examples/${name}.mp4`, loop: true, playsinline: true, "aria-label": `Example: ${text}`, controls: CALM.matches });
  Object.assign(video, { muted: true, autoplay: !CALM.matches });
  return el("li", {}, video, el("p", {}, el("span", { class: "verdict", data: { answer }, text: TEXT[answer] }), text));
}

/** What the work is where questions are asked about whole videos. */
function questionsScreen(app, questions, goOn) {
  const key = (id) => el("kbd", { text: app.keymap.cap(id) });
  const fresh = app.me.stage === "instructions";
  return el("article", { class: "card wide" },
    el("h1", { text: "Which of two videos is better, question by question?" }),
    el("p", { text: "You see two videos that were made for the same text, which stands above them. Watch both to the end, then answer each question by itself. The videos loop; you may slow them down, stop and step." }),
    el("h2", { text: "The questions" }),
    el("dl", { class: "asked" }, ...questions.flatMap(({ name, text, hint }) => [el("dt", { text: name }), el("dd", {}, el("b", { text }), " ", hint)])),
    el("h2", { text: "Answers" }),
    el("ul", {},
      el("li", {}, key("first"), " ", key("second"), " the first or the second video."),
      el("li", {}, key("tie"), " tie: you have looked twice and see no difference that matters. Honest ties are worth as much as choices."),
      el("li", {}, key("cannot_judge"), " cannot judge: something keeps you from seeing, a video that does not load for example.")),
    el("ul", {},
      el("li", { text: "One video may win one question and lose the next. Do not let one answer pull the others along." }),
      el("li", { text: "Nothing tells who made a video, and sides are drawn anew for every pair. Some pairs are there to check how reliable answers are; they look like all others." })),
    el("h2", { text: "How it works" }),
    el("p", {}, "Click, touch or use the keys. An answer moves on to the next question, ", key("previous"), " ", key("next"), " change it by hand. ", key("submit"), " goes to the next pair. ", key("play"), " plays and pauses, ",
      key("back"), " ", key("forward"), " step one frame, ", key("undo"), " takes the last step back, ", key("help"), " shows all keys; you can change every one. Each answer is saved at once, also while the network is away."),
    button(fresh ? "I have read this, start" : "Back to the work", goOn, { class: "submit ready" }));
}

export function instructionsScreen(app, goOn) {
  const questions = app.me.settings?.questions ?? [];
  if (questions.length) return questionsScreen(app, questions, goOn);
  const key = (id) => el("kbd", { text: app.keymap.cap(id) });
  const fresh = app.me.stage === "instructions";
  const answers = ANSWERS.map(({ id, text, hint }) => el("li", {}, key(id), " ", el("b", { text }), `: ${hint}.`));
  const tags = TAGS.map(({ id, text, hint }) => el("li", {}, key(`tag_${id}`), " ", el("b", { text }), `: ${hint}.`));
  return el("article", { class: "card wide" },
    el("h1", { text: "Which video is better, second by second?" }),
    el("p", { text: "You see two videos of the same scene. They move alike, but differ in detail: one may be clean where the other breaks. Every pair is cut into short segments. Say for each segment which video is better there." }),
    el("ul", {},
      el("li", { text: "Judge what you see in this segment only. One video can be better now and worse a second later." }),
      el("li", { text: "Look for things that cannot be: parts that vanish or double, shapes that melt, jumps, flicker, smears." }),
      el("li", { text: "Movement is good. Do not prefer a video because it is slower, larger or brighter." }),
      el("li", { text: "If you have looked twice and cannot say, it is a tie. Honest ties are worth as much as choices." }),
      el("li", { text: "“Cannot judge” is for what keeps you from seeing: a video that does not load, for example." })),
    el("h2", { text: "Examples" }),
    el("ul", { class: "examples" }, ...EXAMPLES.map(example)),
    el("h2", { text: "Answers" }), el("ul", {}, ...answers),
    el("h2", { text: "Tags, if you like" }), el("ul", {}, ...tags),
    el("h2", { text: "How it works" }),
    el("p", {}, "The segment loops until you answer; the answer moves you on. ", key("play"), " plays and pauses, ", key("back"), " ", key("forward"), " step one frame, ",
      key("previous"), " ", key("next"), " change the segment, ", key("undo"), " takes the last step back, ", key("submit"), " submits. With ⇧ an answer fills all segments that are left. ",
      key("help"), " shows all keys; you can change every one. Each answer is saved at once, also while the network is away."),
    fresh ? el("p", { class: "soft", text: "A short round to practise may come first: you are told afterwards what was expected." }) : null,
    button(fresh ? "I have read this, start" : "Back to the work", goOn, { class: "submit ready" }));
}
