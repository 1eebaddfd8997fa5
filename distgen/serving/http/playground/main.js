// The playground: what is asked for on the left, pictures in the middle, the picked one beside them.

import { EndpointError, ask, hasKey, keepKey, latest } from "./api.js";
import { listenToBlend, showBlend } from "./blend.js";
import { listenToCode, showCode } from "./code.js";
import { by, calm, complain, say } from "./dom.js";
import { model, remember, roll, showModel, showModels, showTruncation, wish } from "./form.js";
import { listenToOwn, showOwn } from "./own.js";
import { listenToLatents, showPicked } from "./picked.js";
import { listenToKeys, markPicks, picturesOf, showPictures } from "./pictures.js";

let [from, to] = [null, null]; // the picture picked before, and the one picked last

function pick(picture) {
  if (picture === to) return;
  [from, to] = [to, picture];
  markPicks(from, to);
  showPicked(to);
  showBlend(from, to);
  by("own-picked").disabled = false;
}

function show(answer, request) {
  const isOfSeed = request.path === "generations";
  const pictures = picturesOf(answer).map((each) => ({ ...each, isOfSeed, truncation: request.fields.truncation }));
  [from, to] = [null, null];
  showPicked(null);
  showBlend(null, null);
  by("own-picked").disabled = true;
  showPictures(pictures, pick);
  const classes = [...new Set(pictures.map(({ label }) => label))];
  const what = pictures.length === 1 ? "1 picture" : `${pictures.length} pictures`;
  const { seed, truncation } = request.fields;
  const ofWhat = classes.length === 1 && classes[0] ? ` of ${classes[0]}` : "";
  const cut = truncation === undefined ? "" : `, truncation ${truncation}`;
  const told = `${what}${ofWhat}, seed ${seed}${cut}`;
  say(told);
  showCode(request, told);
  calm();
  by("key-panel").hidden = true;
}

// A wrong key or none opens the field for one; whatever else went wrong is said.
function failed(error) {
  by("pictures").removeAttribute("aria-busy");
  if (error instanceof EndpointError && error.status === 401) {
    by("key-panel").hidden = false;
    by("key").focus();
    if (!hasKey()) return calm();
  }
  complain(error);
}

const generate = latest(async (signal) => {
  const { problem, fields } = wish();
  if (problem) return complain(problem);
  by("pictures").setAttribute("aria-busy", "true");
  say("Making …", 400);
  const answer = await ask("v1/images/generations", { body: fields, signal });
  by("pictures").removeAttribute("aria-busy");
  show(answer, { path: "generations", fields });
  remember(fields);
}, 250, failed);

async function start() {
  try {
    showModels((await ask("v1/models")).data);
    showOwn();
    generate(0);
  } catch (error) {
    failed(error);
  }
}

by("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  generate(0);
});
by("ask").addEventListener("change", ({ target }) => {
  if (target.id === "model") {
    showModel();
    showOwn();
  }
  generate();
});
by("truncation").addEventListener("input", showTruncation);
by("dice").addEventListener("click", () => {
  roll();
  generate(0);
});
by("picked-use").addEventListener("click", () => {
  by("seed").value = String(to.seed);
  by("seed").focus();
  generate(0);
});
by("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(by("key").value.trim());
  by("key").value = "";
  model() ? generate(0) : start();
});
listenToKeys(pick);
listenToLatents();
listenToBlend();
listenToCode();
listenToOwn(show, () => by("picked-image").src);
start();
