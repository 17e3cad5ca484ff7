// The images of a seed, made by onnxruntime-web in a real browser: the ten lines for a page of one's own, in `inPage`.
//
//   SITE=site node generate.mjs MODEL --seed S --n N [--class=A,B] --out FILE
//   SITE=site node generate.mjs latents --seed S --n N [--latent-dim 100] --out FILE
//
// FILE gets the bare numbers, little-endian, as the model gives them. SITE is what dcgan-export --target web wrote.

import { existsSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { launch, serve } from "./browser.mjs";

/** Runs in the page. A model that takes a seed needs nothing else; for the others latents.js makes z and label. */
async function inPage({ seed, n, names, latentDim }) {
  const { latents, labels } = await import("/latents.js");
  let made;
  if (latentDim) {
    made = latents(seed, 0, n, latentDim);
  } else {
    const { classOf, specOf } = await import("/interface.js");
    const bytes = new Uint8Array(await (await fetch("/under-test.onnx")).arrayBuffer());
    const spec = specOf(bytes);
    const asked = names.map((name) => BigInt(classOf(spec, name)));
    const turn = (own, i) => (asked.length && asked[i % asked.length] >= 0n ? asked[i % asked.length] : own);
    const ort = await import("/runtime/ort.wasm.min.js");
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = { mjs: "/runtime/ort-wasm-simd-threaded.js", wasm: "/runtime/ort-wasm-simd-threaded.wasm" };
    const session = await ort.InferenceSession.create(bytes);
    const whole = (value, shape) => new ort.Tensor("int64", value, shape);
    const inputs = session.inputNames.includes("seed")
      ? { seed: whole(BigInt64Array.of(BigInt(seed)), []), n: whole(BigInt64Array.of(BigInt(n)), []) }
      : { z: new ort.Tensor("float32", latents(seed, 0, n, spec.latent_dim), [n, spec.latent_dim]) };
    if (session.inputNames.includes("label")) {
      inputs.label = inputs.seed ? whole(BigInt64Array.from(asked), [asked.length]) : whole(labels(seed, 0, n, spec.num_classes).map(turn), [n]);
    }
    made = Object.values(await session.run(inputs))[0].data;
  }
  return Array.from(new Uint8Array(made.buffer, made.byteOffset, made.byteLength));
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    seed: { type: "string" },
    n: { type: "string" },
    class: { type: "string", default: "" },
    "latent-dim": { type: "string", default: "100" },
    out: { type: "string" },
  },
});
const [model] = positionals;
const site = process.env.SITE ?? "site";
const problem =
  positionals.length !== 1 || !values.seed || !values.n || !values.out
    ? "usage: SITE=site node generate.mjs MODEL|latents --seed S --n N [--class=A,B] --out FILE"
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
  const names = values.class ? values.class.split(",") : [];
  const latentDim = model === "latents" ? Number(values["latent-dim"]) : 0;
  const bytes = await page.evaluate(inPage, { seed: values.seed, n: Number(values.n), names, latentDim });
  writeFileSync(values.out, Uint8Array.from(bytes));
} catch (error) {
  console.error(`onnxruntime-web: ${error.message.split("\n")[0]}`);
  process.exitCode = 1;
} finally {
  await browser?.close();
  server.close();
}
