// The picture that was picked, large, and sliders over the latents that tell the most.

import { ask, live, modelPath, release } from "./api.js";
import { showCode } from "./code.js";
import { by, complain, calm, make, say } from "./dom.js";
import { format, model } from "./form.js";
import { nameOf, picturesOf } from "./pictures.js";

const FIRST = 6;
const FARTHEST = 3; // standard deviations of the prior

let picked = null; // the picture of the grid
let moved = null; // what the sliders made of it
let origin = []; // its latents
let latents = [];

export function showPicked(picture) {
  release(moved?.url);
  [picked, moved, origin, latents] = [picture, null, [], []];
  moving.stop();
  by("picked").hidden = picture === null;
  by("picked-none").hidden = picture !== null;
  by("latents-section").hidden = true;
  by("latents").replaceChildren();
  if (picture === null) return;
  showLarge(picture);
  by("picked-use").hidden = !picture.isOfSeed;
  if (picture.isOfSeed && model().leading_latents.length) readLatents(picture).catch(complain);
}

function showLarge(picture) {
  const name = nameOf(picked) + (picture === picked ? "" : ", latents moved");
  by("picked-image").src = picture.url;
  by("picked-image").alt = name;
  by("picked-class").textContent = picked.label;
  by("picked-seed").textContent = String(picked.seed) + (picture === picked ? "" : " + moved latents");
  by("picked-save").href = picture.url;
  const words = [picked.label.replace(/[^\p{L}\p{N}]+/gu, "-"), picked.seed, picture === picked ? "" : "moved"];
  by("picked-save").download = `${words.filter((word) => word !== "").join("-")}.${picture.format}`;
}

async function readLatents(picture) {
  const query = new URLSearchParams({ seed: picture.seed });
  if (picture.truncation !== undefined) query.set("truncation", picture.truncation);
  const answer = await ask(`${modelPath(model().id)}/latents?${query}`);
  if (picked !== picture) return; // another one was picked meanwhile
  origin = answer.latents;
  latents = [...origin];
  by("latents").replaceChildren(...answer.leading.map(slider));
  const isLong = answer.leading.length > FIRST;
  [...by("latents").children].slice(FIRST).forEach((row) => (row.hidden = true));
  by("latents-more").hidden = !isLong;
  by("latents-reset").disabled = true;
  by("latents-section").hidden = answer.leading.length === 0;
}

function slider(place) {
  const id = `latent-${place}`;
  const value = origin[place];
  const limit = Math.max(FARTHEST, Math.ceil(Math.abs(value)));
  const input = make("input", { type: "range", id, min: -limit, max: limit, step: "any", value });
  const output = make("output", { for: id }, shortly(value));
  input.dataset.place = place;
  input.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.1, ArrowDown: -0.1, ArrowRight: 0.1, ArrowUp: 0.1, PageDown: -0.5, PageUp: 0.5 }[event.key];
    if (!step) return;
    event.preventDefault();
    input.value = Number(input.value) + step;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  return make("div", { class: "slider" }, make("label", { for: id, title: `Latent ${place}` }, make("span", { class: "unseen" }, "Latent "), String(place)), input, output);
}

const shortly = (value) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(2);

const moving = live(async (signal) => {
  const body = {
    model: model().id,
    n: 1,
    seed: picked.seed,
    ...(picked.number === undefined ? {} : { class_labels: [picked.number] }),
    latents: [latents],
    output_format: format(),
  };
  const [picture] = picturesOf(await ask("v1/images/generations", { body, signal }));
  if (signal.aborted) return release(picture.url);
  const old = moved;
  moved = picture;
  showLarge(picture);
  release(old?.url);
  calm();
  showCode({ path: "generations", fields: body }, "the picture with moved latents");
  say(`Moved: ${nameOf(picked)}`, 600);
}, complain);

export function listenToLatents() {
  by("latents").addEventListener("input", ({ target }) => {
    latents[Number(target.dataset.place)] = Number(target.value);
    target.nextElementSibling.textContent = shortly(Number(target.value));
    by("latents-reset").disabled = false;
    moving();
  });
  by("latents-reset").addEventListener("click", () => {
    moving.stop();
    latents = [...origin];
    for (const input of by("latents").querySelectorAll("input")) {
      input.value = origin[Number(input.dataset.place)];
      input.nextElementSibling.textContent = shortly(Number(input.value));
    }
    showLarge(picked);
    by("latents").querySelector("input").focus();
    by("latents-reset").disabled = true;
    say(nameOf(picked));
  });
  by("latents-more").addEventListener("click", () => {
    const rows = [...by("latents").children];
    rows.forEach((row) => (row.hidden = false));
    by("latents-more").hidden = true;
    rows[FIRST].querySelector("input").focus();
  });
}
