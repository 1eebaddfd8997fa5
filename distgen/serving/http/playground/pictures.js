// The grid of results: one stop for the Tab key, arrow keys within it, Enter or a click picks.

import { pictureUrl, release } from "./api.js";
import { by, make } from "./dom.js";

let shown = [];

export const nameOf = ({ label, seed }) => (label ? `${label}, seed ${seed}` : `Seed ${seed}`);

export const picturesOf = (answer) =>
  answer.data.map((image) => ({
    url: image.b64_json ? pictureUrl(image.b64_json, answer.output_format) : image.url,
    seed: image.seed,
    label: image.revised_prompt ?? "",
    number: image.label,
    format: answer.output_format,
    digest: answer.digest,
  }));

export function showPictures(pictures, pick) {
  const old = shown;
  shown = pictures;
  const hadFocus = by("pictures").contains(document.activeElement);
  by("pictures").replaceChildren(...pictures.map((picture, index) => card(picture, index, pick)));
  if (hadFocus) focusOn(0);
  for (const { url, kept } of old) if (!kept) release(url);
}

function card(picture, index, pick) {
  const name = nameOf(picture);
  const option = make(
    "div",
    { class: "card", role: "option", "aria-label": name, "aria-selected": "false", tabindex: index ? -1 : 0, title: name },
    make("img", { src: picture.url, alt: name, draggable: "false" }),
  );
  if (picture.label) option.append(make("span", { class: "what" }, picture.label));
  option.append(make("span", { class: "seed" }, String(picture.seed)));
  option.addEventListener("click", () => {
    focusOn(index);
    pick(picture);
  });
  return option;
}

export function markPicks(from, to) {
  [...by("pictures").children].forEach((option, index) => {
    option.setAttribute("aria-selected", String(shown[index] === to));
    option.classList.toggle("before", shown[index] === from);
  });
}

function focusOn(index) {
  const options = [...by("pictures").children];
  options.forEach((option, each) => (option.tabIndex = each === index ? 0 : -1));
  options[index]?.focus({ preventScroll: false });
}

export function listenToKeys(pick) {
  by("pictures").addEventListener("keydown", (event) => {
    const options = [...by("pictures").children];
    const here = options.indexOf(document.activeElement);
    if (here < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const below = options.findIndex((option) => option.offsetTop > options[0].offsetTop);
    const columns = below < 0 ? options.length : below;
    const last = options.length - 1;
    const goals = {
      ArrowLeft: here - 1,
      ArrowRight: here + 1,
      ArrowUp: here - columns,
      ArrowDown: here + columns,
      Home: 0,
      End: last,
    };
    if (event.key === "Enter" || event.key === " ") pick(shown[here]);
    else if (!(event.key in goals)) return;
    else if (goals[event.key] >= 0 && goals[event.key] <= last) focusOn(goals[event.key]);
    event.preventDefault();
  });
}
