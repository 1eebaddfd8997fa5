// From one picked picture to the other: a slider through the pictures between them, and a film.

import { ask, latest, release } from "./api.js";
import { showCode } from "./code.js";
import { by, calm, complain, say } from "./dom.js";
import { can, model } from "./form.js";
import { nameOf, picturesOf } from "./pictures.js";

const STEPS = 17;
const FRAME_MS = 90;

let ends = null; // [from, to]
let frames = [];
let playing = 0;

export function showBlend(from, to) {
  stop();
  making.stop();
  frames.forEach(({ url }) => release(url));
  frames = [];
  by("blend-section").hidden = !can("interpolate");
  by("blend").hidden = true;
  by("blend-hint").hidden = false;
  ends = from?.isOfSeed && to?.isOfSeed ? [from, to] : null;
  if (ends && can("interpolate")) making();
}

// The class stays that of the picture where the way begins.
const way = () => ({
  model: model().id,
  prompt: ends[0].number === undefined ? "random" : `class:${ends[0].number}`,
  seed: ends[0].seed,
  ...(ends[0].truncation === undefined ? {} : { truncation: ends[0].truncation }),
  interpolate: { to: ends[1].seed },
});

const making = latest(async (signal) => {
  const fields = { ...way(), n: STEPS };
  const made = picturesOf(await ask("v1/images/generations", { body: fields, signal }));
  if (signal.aborted) return made.forEach(({ url }) => release(url));
  frames = made;
  by("blend-step").max = STEPS - 1;
  by("blend-step").value = (STEPS - 1) / 2;
  for (const [id, end, frame] of [["blend-from", ends[0], frames[0]], ["blend-to", ends[1], frames.at(-1)]]) {
    by(id).src = frame.url;
    by(id).alt = nameOf({ ...end, label: ends[0].label });
  }
  by("blend-hint").hidden = true;
  by("blend").hidden = false;
  showStep();
  calm();
  showCode({ path: "generations", fields }, "the way between two picks");
}, 0, complain);

function showStep() {
  const step = Number(by("blend-step").value);
  const share = `${Math.round((100 * step) / (STEPS - 1))} %`;
  by("blend-image").src = frames[step].url;
  by("blend-image").alt = `${share} of the way from seed ${ends[0].seed} to seed ${ends[1].seed}`;
  by("blend-where").textContent = share;
  by("blend-step").setAttribute("aria-valuetext", share);
}

// There and back again, until it is stopped.
function play() {
  let direction = 1;
  by("blend-play").textContent = "Stop";
  playing = setInterval(() => {
    const step = Number(by("blend-step").value);
    if (step + direction < 0 || step + direction >= STEPS) direction = -direction;
    by("blend-step").value = step + direction;
    showStep();
  }, FRAME_MS);
}

function stop() {
  clearInterval(playing);
  playing = 0;
  by("blend-play").textContent = "Play";
}

const saving = latest(async (signal) => {
  const fields = { ...way(), interpolate: { to: ends[1].seed, loop: true } };
  const [film] = picturesOf(await ask("v1/images/generations", { body: fields, signal }));
  const link = Object.assign(document.createElement("a"), { href: film.url, download: `${ends[0].seed}-to-${ends[1].seed}.gif` });
  link.click();
  setTimeout(() => release(film.url), 10_000);
  showCode({ path: "generations", fields }, "the film between two picks");
  say("The film is saved.");
}, 0, complain);

export function listenToBlend() {
  by("blend-step").addEventListener("input", () => {
    stop();
    showStep();
  });
  by("blend-play").addEventListener("click", () => (playing ? stop() : play()));
  by("blend-save").addEventListener("click", () => saving());
}
