// The digits of a seed, made by onnxruntime-web in a real browser: the ten lines for a page of one's own, in `inPage`.
//
//   SITE=site node digits.mjs MODEL --seed S --n N [--label 0,1] --out FILE
//   SITE=site node digits.mjs latents --seed S --n N --out FILE
//
// FILE gets the bare numbers, little-endian, as the model gives them. SITE is what dcgan-export --target web wrote.

import { existsSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { launch, serve } from "./browser.mjs";

/** Runs in the page. A model that takes a seed needs nothing else; for the others latents.js makes z and label. */
async function inPage({ seed, n, asked, latentsOnly }) {
  const [size, classes] = [100, 10]; // of the latents, and how many: of a model of yours they are in its metadata
  const { latents, labels } = await import("/latents.js");
  const drawn = () => labels(seed, 0, n, classes).map((own, i) => (asked.length && asked[i % asked.length] >= 0 ? BigInt(asked[i % asked.length]) : own));
  let made;
  if (latentsOnly) {
    made = latents(seed, 0, n, size);
  } else {
    const ort = await import("/runtime/ort.wasm.min.mjs");
    ort.env.wasm.numThreads = 1;
    const session = await ort.InferenceSession.create("/under-test.onnx");
    const whole = (value, shape) => new ort.Tensor("int64", value, shape);
    const inputs = session.inputNames.includes("seed")
      ? { seed: whole(BigInt64Array.of(BigInt(seed)), []), n: whole(BigInt64Array.of(BigInt(n)), []) }
      : { z: new ort.Tensor("float32", latents(seed, 0, n, size), [n, size]) };
    if (session.inputNames.includes("label")) {
      inputs.label = inputs.seed ? whole(BigInt64Array.from(asked.map(BigInt)), [asked.length]) : whole(drawn(), [n]);
    }
    made = Object.values(await session.run(inputs))[0].data;
  }
  return Array.from(new Uint8Array(made.buffer, made.byteOffset, made.byteLength));
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { seed: { type: "string" }, n: { type: "string" }, label: { type: "string", default: "" }, out: { type: "string" } },
});
const [model] = positionals;
const site = process.env.SITE ?? "site";
const problem =
  positionals.length !== 1 || !values.seed || !values.n || !values.out
    ? "usage: SITE=site node digits.mjs MODEL|latents --seed S --n N [--label=0,1] --out FILE"
    : !existsSync(`${site}/runtime`)
      ? `SITE=${site} is no site; make one: dcgan-export --target web --out ${site}`
      : model !== "latents" && !existsSync(model)
        ? `there is no model ${model}`
        : "";
if (problem) {
  console.error(problem);
  process.exit(2);
}
const server = await serve(site, { files: { "/under-test.onnx": model, "/blank.html": "/dev/null" } });
let browser;
try {
  browser = await launch();
  const page = await browser.newPage();
  await page.goto(`${server.url}blank.html`);
  const asked = values.label ? values.label.split(",").map(Number) : [];
  const bytes = await page.evaluate(inPage, { seed: values.seed, n: Number(values.n), asked, latentsOnly: model === "latents" });
  writeFileSync(values.out, Uint8Array.from(bytes));
} catch (error) {
  console.error(`onnxruntime-web: ${error.message.split("\n")[0]}`);
  process.exitCode = 1;
} finally {
  await browser?.close();
  server.close();
}
