// What is asked for: the form, the address that remembers it, and the request that it stands for.

import { by, fill } from "./dom.js";

const MAX_SEED = Number.MAX_SAFE_INTEGER; // what JavaScript keeps exact
const NOT_CUT = 3;
const ANY = "any";

let models = [];
export const model = () => models.find(({ id }) => id === by("model").value) ?? models[0];
export const isFirst = () => model() === models[0]; // the one that is asked where none is named
export const can = (what) => (model().capabilities ?? ["generations"]).includes(what);
const isMoving = () => model().frames !== undefined;

export function showModels(list) {
  models = list;
  const past = new URLSearchParams(location.hash.slice(1));
  fill(by("model"), list.map(({ id }) => [id, id]), past.get("model"));
  showModel(past.get("class"), past.get("format"));
  by("seed").value = past.get("seed") ?? "0";
  by("count").value = past.get("n") ?? "16";
  by("truncation").value = past.get("truncation") ?? NOT_CUT;
  showTruncation();
}

export function showModel(label = ANY, format = null) {
  const { family, size, classes, card, digest } = model();
  const quality = card.split(" (")[0]; // what it was measured by is in the title
  const facts = [family.toUpperCase(), size.replace("x", " × "), quality, digest.slice(0, 12)];
  by("about").textContent = facts.filter(Boolean).join(" · ");
  by("about").title = card;
  by("class-field").hidden = classes.length === 0;
  const names = classes.map((name, index) => [String(index), name || `class ${index}`]);
  fill(by("class"), [[ANY, "any"], ...names], label);
  const formats = isMoving() ? ["gif", "webp"] : ["png", "webp", "jpeg"];
  fill(by("format"), formats.map((each) => [each, each.toUpperCase()]), format);
}

export function showTruncation() {
  const bound = truncation();
  by("truncation-value").textContent = bound === null ? "none" : `± ${bound}`;
  by("truncation").setAttribute("aria-valuetext", bound === null ? "none" : `plus or minus ${bound}`);
}

export const truncation = () => {
  const bound = Number(by("truncation").value);
  return bound < NOT_CUT ? bound : null;
};

export const format = () => by("format").value;

export function roll() {
  by("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
}

// The fields of the request, or a sentence about what is wrong with one, which is then in focus.
export function wish() {
  const seed = whole("seed", 0, MAX_SEED, "A seed");
  const n = whole("count", 1, 256, "The number of pictures");
  const problem = [seed, n].find((value) => typeof value === "string");
  if (problem) return { problem };
  return {
    fields: {
      model: model().id,
      prompt: promptOf(model().classes, by("class").value),
      n,
      seed,
      ...(truncation() === null ? {} : { truncation: truncation() }),
      ...(by("format").selectedIndex > 0 ? { output_format: format() } : {}),
    },
  };
}

function whole(id, low, high, name) {
  const field = by(id);
  const text = field.value.trim();
  const value = Number(text);
  const isGood = /^[0-9]+$/.test(text) && value >= low && value <= high;
  field.setAttribute("aria-invalid", String(!isGood));
  if (isGood) return value;
  field.focus();
  return `${name} is a whole number from ${low} to ${high}.`;
}

// How the API is asked for a class: by its name where that says which, else by its number.
export function promptOf(classes, chosen) {
  const names = classes.map(normal);
  if (chosen === ANY || classes.length === 0) return names.includes("random") ? "" : "random";
  const index = Number(chosen);
  const name = names[index];
  const isClear =
    name !== "" &&
    name.length <= 200 &&
    !/^class:\s*-?\d+$/.test(name) &&
    names.filter((other) => other === name).length === 1;
  return isClear ? classes[index] : `class:${index}`;
}

const normal = (name) => name.trim().toUpperCase().toLowerCase().replace(/[\s_-]+/g, " ");

// The address names what is shown, so that it can be kept and passed on.
export function remember({ model, n, seed, truncation, output_format }) {
  const kept = { model, class: by("class").value, seed, n, truncation, format: output_format };
  const named = Object.entries(kept).filter(([, value]) => value !== undefined && value !== ANY);
  history.replaceState(null, "", `#${new URLSearchParams(named)}`);
}
