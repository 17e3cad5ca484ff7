// A generator in the browser: the model, its spec, and onnxruntime-web to run it. No page in here.

import { specOf, toPictures } from "./interface.js";
import { labels, latents } from "./latents.js";

const HERE = new URL(".", import.meta.url);

// By backend: the build of the runtime, and what runs there. model.json says which model it takes.
const BACKENDS = {
  wasm: { build: "runtime/ort.wasm.min.mjs", providers: ["wasm"] },
  webgpu: { build: "runtime/ort.webgpu.min.mjs", providers: ["webgpu"] },
};

/**
 * Open the site's generator.
 *
 * @param {"wasm" | "webgpu"} backend
 * @param {string} [file] another model than model.json names for this backend
 * @returns {Promise<Generator>}
 * @throws {Error} with a message for people: what is missing or refused
 */
export async function openGenerator(backend = "wasm", file) {
  if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly; take a newer one");
  const { build, providers } = BACKENDS[backend];
  const [ort, site] = await Promise.all([loadRuntime(build), readSite()]);
  const name = file ?? site.models[backend].file;
  const bytes = new Uint8Array(await (await fetchFrom(name)).arrayBuffer());
  ort.env.wasm.wasmPaths = new URL("runtime/", HERE).href;
  // Threads need shared memory, which browsers give only to pages served with the headers COOP and COEP.
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  const spec = specOf(bytes);
  let session;
  try {
    // Severity 3, errors: it warns of operators that it leaves to the CPU, as it should.
    session = await ort.InferenceSession.create(bytes, { executionProviders: providers, logSeverityLevel: 3 });
  } catch (error) {
    throw new Error(`onnxruntime-web refuses ${name}: ${String(error.message ?? error).split("\n")[0]}`);
  }
  return new Generator(ort, session, { ...site, spec, backend, file: name, bytes: bytes.length, threads: ort.env.wasm.numThreads });
}

let site;

/** The site's model.json, fetched once. */
export const readSite = () => (site ??= fetchFrom("model.json").then((answer) => answer.json()));

async function loadRuntime(build) {
  try {
    return await import(new URL(build, HERE).href);
  } catch {
    throw new Error(`${build} is missing; export the site again, and serve all of it`);
  }
}

async function fetchFrom(name) {
  let answer;
  try {
    answer = await fetch(new URL(name, HERE));
  } catch {
    throw new Error(`can't fetch ${name}; a page opened as a file can't, so serve the folder: python -m http.server`);
  }
  if (!answer.ok) throw new Error(`can't fetch ${name}: the server says ${answer.status}`);
  return answer;
}

/** What `openGenerator` gives. `about` is the site's model.json, with `spec`, `backend`, `file`, `bytes` and `threads`. */
class Generator {
  #ort;
  #session;
  #last = Promise.resolve();

  constructor(ort, session, about) {
    this.#ort = ort;
    this.#session = session;
    this.about = about;
    this.latentDim = about.spec.latent_dim;
    this.classes = about.spec.num_classes;
    [this.channels, this.height, this.width] = about.spec.image_shape;
    this.size = this.channels * this.height * this.width;
  }

  /**
   * Images of latents.
   *
   * @param {Float32Array} z N * latentDim numbers, from N(0, 1)
   * @param {BigInt64Array} [label] N labels; for a conditional model only
   * @returns {Promise<Uint8Array | Uint8ClampedArray>} N * size levels: row by row, the channels of a pixel side by side, 0 is black
   */
  images(z, label) {
    // A session runs one request at a time: the next waits for the last, whether that failed or not.
    const run = () => this.#run(z, label);
    this.#last = this.#last.then(run, run);
    return this.#last;
  }

  /**
   * Images `start` to `start + count - 1` of a seed, the same as everywhere else (docs/latents.md).
   *
   * @param {bigint | string} seed 0 to 2^63 - 1
   * @param {number} start
   * @param {number} count
   * @param {number | null} wanted class of all of them; null: the seed draws it
   */
  imagesOf(seed, start, count, wanted = null) {
    return this.images(latents(seed, start, count, this.latentDim), this.labelsOf(seed, start, count, wanted));
  }

  /** Labels of the same, or undefined for a model without classes. */
  labelsOf(seed, start, count, wanted = null) {
    if (!this.classes) return undefined;
    return wanted === null ? labels(seed, start, count, this.classes) : new BigInt64Array(count).fill(BigInt(wanted));
  }

  /** Free what the session holds, once it is idle; nothing can be asked for after that. */
  close() {
    this.#last = this.#last.catch(() => {}).then(() => this.#session.release());
    return this.#last;
  }

  async #run(z, label) {
    const { Tensor } = this.#ort;
    const count = z.length / this.latentDim;
    const inputs = { z: new Tensor("float32", z, [count, this.latentDim]) };
    if (this.classes) inputs.label = new Tensor("int64", label, [count]);
    const { image } = await this.#session.run(inputs);
    return toPictures(image.data, this.about.spec).slice();
  }
}
