// What the official npm client makes of an endpoint; prints one JSON object.
// Usage: node openai_client.mjs FOLDER_OF_PACKAGES URL IMAGE MASK
import fs from "node:fs";
import { createRequire } from "node:module";

const [packages, url, image, mask] = process.argv.slice(2);
const { OpenAI, toFile } = createRequire(packages + "/")("openai");
const client = new OpenAI({ apiKey: "none", baseURL: url + "/v1" });
const png = (path) => toFile(fs.readFileSync(path), "a.png", { type: "image/png" });
const found = {};

const whole = await client.images.generate({ prompt: "random", n: 3, seed: 7 });
found.generated = whole.data.map((one) => one.b64_json);

const stream = await client.images.generate({ prompt: "random", n: 3, seed: 7, stream: true });
found.streamed = [];
for await (const event of stream) {
  if (event.type === "image_generation.completed") found.streamed.push(event.b64_json);
}

const edited = await client.images.edit({
  image: await png(image), mask: await png(mask), prompt: "random", n: 2, seed: 7,
});
found.edited = edited.data.map((one) => one.b64_json);

const varied = await client.images.createVariation({ image: await png(image), n: 2, seed: 7 });
found.varied = varied.data.map((one) => one.b64_json);

try {
  await client.images.generate({ prompt: "random", sede: 7 });
} catch (error) {
  found.refused = [error.constructor.name, error.status, error.code, error.param];
}
found.models = [];
for await (const model of client.models.list()) found.models.push(model.id);
console.log(JSON.stringify(found));
