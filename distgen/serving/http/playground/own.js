// A picture of one's own: reconstructed, varied, or made anew where it was painted over.

import { ask, latest } from "./api.js";
import { by, calm, complain, say } from "./dom.js";
import { can, format, model, promptOf, wish } from "./form.js";
import { Mask } from "./mask.js";

const MOST = 32; // pictures that the endpoint makes of one

let source = null; // a canvas of the model's size
let mask = null;

export function showOwn() {
  by("own-section").hidden = !(can("variations") || can("edits"));
  by("own").hidden = true;
  for (const id of ["own-reconstruct", "own-vary", "own-strength-field"]) by(id).hidden = !can("variations");
  for (const id of ["own-edit", "own-clear", "own-brush-field", "own-paint-hint"]) by(id).hidden = !can("edits");
  [source, mask] = [null, null];
  by("own-file").value = "";
}

async function take(blob) {
  const image = await createImageBitmap(blob).catch(() => null);
  if (image === null) return complain("That file is no picture that this browser can read. Choose a PNG, JPEG or WebP.");
  calm();
  const [width, height] = model().size.split("x").map(Number);
  source = Object.assign(document.createElement("canvas"), { width, height });
  // As much of it as fits the model's shape, from the middle.
  const scale = Math.max(width / image.width, height / image.height);
  const [w, h] = [image.width * scale, image.height * scale];
  const pen = source.getContext("2d");
  pen.imageSmoothingEnabled = scale < 1;
  pen.imageSmoothingQuality = "high";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
  mask?.stop();
  mask = new Mask(by("own-canvas"), source, () => Number(by("own-brush").value), can("edits"));
  by("own").hidden = false;
  say("The picture is ready.");
}

const blobOf = (canvas) => new Promise((done) => canvas.toBlob(done, "image/png"));

export function listenToOwn(show, pickedUrl) {
  const send = latest(async (signal) => {
    const { problem, fields: asked } = wish();
    if (problem) return complain(problem);
    const { path, strength } = wanted;
    const files = { image: source, ...(path === "edits" ? { mask: mask.canvas() } : {}) };
    const fields = {
      model: asked.model,
      ...(path === "edits" ? { prompt: promptOf(model().classes, by("class").value) } : {}),
      n: strength === 0 ? 1 : Math.min(MOST, asked.n),
      seed: asked.seed,
      ...(strength === undefined ? {} : { strength }),
      ...(asked.output_format ? { output_format: format() } : {}),
    };
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) body.append(name, value);
    for (const [name, canvas] of Object.entries(files)) body.append(name, await blobOf(canvas), `${name}.png`);
    say("Making …");
    const answer = await ask(`v1/images/${path}`, { body, signal });
    show(answer, { path, fields, files: Object.keys(files) });
  }, 0, complain);
  let wanted = null;
  const want = (path, strength) => () => {
    wanted = { path, strength: strength?.() };
    if (path === "edits" && mask.isEmpty()) return complain("Nothing is painted yet. Paint over what shall be made anew.");
    send();
  };
  by("own-reconstruct").addEventListener("click", want("variations", () => 0));
  by("own-vary").addEventListener("click", want("variations", () => Number(by("own-strength").value)));
  by("own-edit").addEventListener("click", want("edits"));
  by("own-clear").addEventListener("click", () => mask.clear());
  by("own-file").addEventListener("change", ({ target }) => target.files[0] && take(target.files[0]));
  by("own-picked").addEventListener("click", async () => {
    const image = new Image();
    image.src = pickedUrl();
    await image.decode();
    take(image);
  });
  for (const id of ["own-brush", "own-strength"]) {
    by(id).addEventListener("input", () => (by(`${id}-value`).textContent = by(id).value));
  }
}
