// What is on the page, as commands and code that bring it back elsewhere. Pure functions of a
// request: `path` after /v1/images/, `fields`, and the names of `files` that go with it.

const OFFICIAL = ["model", "prompt", "n", "size", "output_format"];
const METHODS = { generations: "generate", variations: "create_variation", edits: "edit" };

// A word for a POSIX shell.
export const quoted = (text) =>
  /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;

export function curl(base, { path, fields, files = [] }, withKey) {
  const lines = [`curl ${quoted(`${base}/v1/images/${path}`)}`];
  if (withKey) lines.push('-H "Authorization: Bearer $DISTGEN_API_KEY"');
  if (files.length) {
    lines.push(...files.map((name) => `-F ${name}=@${name}.png`));
    lines.push(...Object.entries(fields).map(([name, value]) => `--form-string ${quoted(`${name}=${value}`)}`));
  } else {
    lines.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(fields))}`);
  }
  return lines.join(" \\\n  ");
}

export function python(base, { path, fields, files = [] }, withKey) {
  // Of the client's own words, `create_variation` knows only some.
  const words = path === "variations" ? ["model", "n"] : OFFICIAL;
  const official = Object.entries(fields).filter(([name]) => words.includes(name));
  const others = Object.entries(fields).filter(([name]) => !words.includes(name));
  const key = withKey ? 'os.environ["DISTGEN_API_KEY"]' : '"none"';
  return [
    "import base64",
    ...(withKey ? ["import os"] : []),
    "from pathlib import Path",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(`${base}/v1`)}, api_key=${key})`,
    `answer = client.images.${METHODS[path]}(`,
    ...files.map((name) => `    ${name}=Path("${name}.png"),`),
    ...official.map(([name, value]) => `    ${name}=${literal(value)},`),
    `    extra_body=${literal(Object.fromEntries(others))},`,
    ")",
    "for number, image in enumerate(answer.data):",
    `    Path(f"{number:03}.${fields.output_format ?? "png"}").write_bytes(base64.b64decode(image.b64_json))`,
    "",
  ].join("\n");
}

// What Python calls the same value.
export function literal(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    const items = Object.entries(value).map(([name, item]) => `${literal(name)}: ${literal(item)}`);
    return `{${items.join(", ")}}`;
  }
  return JSON.stringify(value);
}

// The command line, or null where it has no words for a request.
export function cli(base, { path, fields, isOfFirst }) {
  const { model, prompt, n, seed, truncation, strength, interpolate, latents } = fields;
  if (interpolate?.loop) return null;
  const words = ["distgen query"];
  if (path === "variations") words.push(`--vary image.png --strength ${strength}`);
  if (path === "edits") words.push("--edit image.png --mask mask.png");
  words.push(latents ? "--latents latents.json" : `-n ${n}`, `--seed ${seed}`);
  if (truncation !== undefined) words.push(`--truncation ${truncation}`);
  if (interpolate) words.push(`--interpolate ${interpolate.to}`);
  if (!isOfFirst) words.push(`--model ${quoted(model)}`);
  words.push(`--url ${quoted(base)}`);
  if (prompt !== undefined) words.push("--", quoted(prompt));
  const command = words.join(" ");
  return latents ? `echo ${quoted(JSON.stringify(latents))} > latents.json\n${command}` : command;
}
