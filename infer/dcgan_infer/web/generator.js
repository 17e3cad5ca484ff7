// A generator in the browser: the model, its spec, and onnxruntime-web to run it. No page in here.

import { specOf, toPictures } from "./interface.js";
import { checkLatents, labels, latents } from "./latents.js";

const HERE = new URL(".", import.meta.url);

// By backend, in runtime/: the build, and the module and the WebAssembly that it loads. model.json says which model it takes.
// All modules end in .js: browsers run one only if the host gives it a type of JavaScript, and some hosts know no .mjs.
const BACKENDS = {
  wasm: {
    runtime: ["ort.wasm.min.js", "ort-wasm-simd-threaded.js", "ort-wasm-simd-threaded.wasm"],
    providers: ["wasm"],
  },
  webgpu: {
    // Of the builds with WebGPU the one below 25 MiB, which is what free hosts take; it needs JSPI.
    runtime: ["ort.jspi.min.js", "ort-wasm-simd-threaded.jspi.js", "ort-wasm-simd-threaded.jspi.wasm"],
    providers: ["webgpu"],
  },
};

/** Whether this browser has a graphics card to offer, and lets WebAssembly wait for it (JSPI). */
export const canTryWebGPU = async () =>
  "Suspending" in WebAssembly && Boolean(await navigator.gpu?.requestAdapter().catch(() => null));

/**
 * Open the site's generator.
 *
 * @param {"wasm" | "webgpu"} backend
 * @param {string} [file] another model than model.json names for this backend
 * @returns {Promise<Generator>}
 * @throws {Error} what is missing or refused; its `files` are the URLs that were needed
 */
export async function openGenerator(backend = "wasm", file) {
  if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly; take a newer one");
  const { runtime, providers } = BACKENDS[backend];
  const site = await readSite();
  const name = file ?? site.models[backend].file;
  const [build, mjs, wasm, model] = [...runtime.map((part) => `runtime/${part}`), name].map(urlOf);
  return needing([build, mjs, wasm, model], async () => {
    const [ort, answer] = await Promise.all([import(build), fetchFrom(model)]);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    const spec = specOf(bytes);
    ort.env.wasm.wasmPaths = { mjs, wasm };
    // Threads need shared memory, which browsers give only to pages served with the headers COOP and COEP.
    const threads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
    ort.env.wasm.numThreads = threads;
    // Severity 3, errors: it warns of operators that it leaves to the CPU, as it should.
    const session = await ort.InferenceSession.create(bytes, { executionProviders: providers, logSeverityLevel: 3 });
    return new Generator(ort, session, { ...site, spec, backend, file: name, bytes: bytes.length, threads });
  });
}

let site;

/** The site's model.json, fetched once. */
export const readSite = () =>
  (site ??= needing([urlOf("model.json")], async () => (await fetchFrom(urlOf("model.json"))).json()));

const urlOf = (name) => new URL(name, HERE).href;

/** What `work` gives; when it fails, the error tells the files that it needed: which of them is at fault, it often does not. */
async function needing(files, work) {
  try {
    return await work();
  } catch (error) {
    const reason = String(error?.message ?? error).split("\n")[0];
    throw Object.assign(new Error(`can't use ${files.at(-1)}: ${reason}`, { cause: error }), { files });
  }
}

async function fetchFrom(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`status ${answer.status}`);
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
   * @param {Float32Array} z N * latentDim numbers, from N(0, 1); none beyond LARGEST_LATENT
   * @param {BigInt64Array} [label] N labels; for a conditional model only
   * @returns {Promise<Uint8Array | Uint8ClampedArray>} N * size levels: row by row, the channels of a pixel side by side, 0 is black
   * @throws {RangeError} a latent is not a number, or beyond LARGEST_LATENT
   */
  images(z, label) {
    // A session runs one request at a time: the next waits for the last, whether that failed or not.
    const run = () => this.#run(z, label);
    this.#last = this.#last.then(run, run);
    return this.#last;
  }

  /**
   * Images `start` to `start + count - 1` of a seed, the same as everywhere else (docs/contracts.md).
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
    checkLatents(z);
    const count = z.length / this.latentDim;
    const inputs = { z: new Tensor("float32", z, [count, this.latentDim]) };
    if (this.classes) inputs.label = new Tensor("int64", label, [count]);
    const { image } = await this.#session.run(inputs);
    return toPictures(image.data, this.about.spec).slice();
  }
}
