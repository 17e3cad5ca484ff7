// Images with onnxruntime-node: see README.md.
//
//   node generate.mjs MODEL.onnx --seed 7 --n 20 --class=0,1,-1 --out images.ppm  a picture to look at
//   node generate.mjs MODEL.onnx --seed 7 --n 20 --out images.raw                 what the model gives, row by row
//   node generate.mjs latents --seed 7 --n 4 --out z.f32                          the latents alone, float32 (4, 100)

import { readFile, writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { classOf, specOf, toPictures } from '../../infer/dcgan_infer/web/interface.js';
import { keyOf, labels, latents } from '../../infer/dcgan_infer/web/latents.js';

class UsageError extends Error {}

function readOptions() {
  const text = (fallback) => ({ type: 'string', default: fallback });
  const known = {
    seed: text('0'), n: text('16'), class: text(''), 'latent-dim': text('100'), out: text(''), threads: text('0'), repeat: text('0'),
  };
  let given;
  try {
    given = parseArgs({ options: known, allowPositionals: true });
    keyOf(given.values.seed); // refuses what is no seed
  } catch (error) {
    throw new UsageError(error.message);
  }
  const { values, positionals } = given;
  const whole = (name, least, most) => {
    const number = Number(values[name]);
    if (/^\d+$/.test(values[name]) && number >= least && number <= most) return number;
    throw new UsageError(`--${name} takes ${least} to ${most}, found ${values[name]}`);
  };
  if (positionals.length !== 1 || values.out === '') {
    throw new UsageError('node generate.mjs MODEL.onnx --seed S --n N [--class=A,B,...] --out FILE');
  }
  return {
    model: positionals[0],
    seed: BigInt(values.seed),
    n: whole('n', 1, 2 ** 32 - 1),
    classes: values.class === '' ? [] : values.class.split(','),
    latentDim: whole('latent-dim', 1, 65536),
    out: values.out,
    threads: whole('threads', 0, 1024),
    repeat: whole('repeat', 0, 1e6),
  };
}

function classNumber(spec, name) {
  try {
    return classOf(spec, name);
  } catch (error) {
    throw new UsageError(`--class: ${error.message}`);
  }
}

// What the model takes: a seed, or latents and labels made of it here.
function makeInputs({ Tensor }, session, spec, { seed, n, classes }) {
  const taken = (name) => session.inputNames.includes(name);
  const integers = (values, shape = [values.length]) => new Tensor('int64', BigInt64Array.from(values), shape);
  if (classes.length && !taken('label')) throw new UsageError('--class is for models with classes, and this one has none');
  const asked = classes.length ? classes.map((name) => BigInt(classNumber(spec, name))) : [-1n]; // in turn
  if (taken('seed')) { // the model makes its latents itself
    const feeds = { seed: integers([seed], []), n: integers([BigInt(n)], []) };
    return taken('label') ? { ...feeds, label: integers(asked) } : feeds;
  }
  if (!taken('z')) throw new Error('the model takes neither z nor a seed; give a file of dcgan-export');
  const feeds = { z: new Tensor('float32', latents(seed, 0, n, spec.latent_dim), [n, spec.latent_dim]) };
  if (!taken('label')) return feeds;
  const turn = (drawn, i) => (asked[i % asked.length] < 0n ? drawn : asked[i % asked.length]);
  return { ...feeds, label: integers(labels(seed, 0, n, spec.num_classes).map(turn)) };
}

// Runs the model; its spec, and its images: float32 (n, C, H, W), or uint8 (n, H, W) or (n, H, W, 3).
async function generate(options) {
  const spec = specOf(await readFile(options.model)); // onnxruntime-node does not show it
  // Or it writes a device id into ~/.cache and looks up a host of Microsoft's. It reads this with the first session.
  process.env.ORT_DISABLE_TELEMETRY ??= '1';
  const ort = await import('onnxruntime-node');
  const settings = options.threads ? { intraOpNumThreads: options.threads } : {};
  const session = await ort.InferenceSession.create(options.model, settings);
  const feeds = makeInputs(ort, session, spec, options);
  let images;
  let best = Infinity;
  for (let run = 0; run < Math.max(options.repeat, 1); run += 1) {
    const start = performance.now();
    images = (await session.run(feeds))[session.outputNames[0]].data;
    best = Math.min(best, performance.now() - start);
  }
  if (options.repeat) {
    console.log(`${Math.round((1000 * options.n) / best)} images/s, best of ${options.repeat} runs of ${options.n}`);
  }
  return { images, spec };
}

// A PGM file of grey images, a PPM file of colour, ten images a row.
function picture(images, spec, n) {
  const [channels, height, width] = spec.image_shape;
  if (channels !== 1 && channels !== 3) throw new Error(`a picture is grey or in colour, and these images have ${channels} channels`);
  const columns = Math.min(n, 10);
  const header = Buffer.from(`P${channels === 1 ? 5 : 6} ${width * columns} ${height * Math.ceil(n / columns)} 255\n`);
  const line = width * channels; // bytes in a row of an image
  const file = Buffer.concat([header, Buffer.alloc(line * columns * height * Math.ceil(n / columns))]);
  const pictures = toPictures(images, spec);
  for (let row = 0; row < n * height; row += 1) {
    const [image, y] = [Math.floor(row / height), row % height];
    const at = (Math.floor(image / columns) * height + y) * columns + (image % columns);
    file.set(pictures.subarray(row * line, (row + 1) * line), header.length + at * line);
  }
  return file;
}

try {
  const options = readOptions();
  const { images, spec } = options.model === 'latents'
    ? { images: latents(options.seed, 0, options.n, options.latentDim) }
    : await generate(options);
  const raw = new Uint8Array(images.buffer, images.byteOffset, images.byteLength); // little-endian on x86 and ARM
  await writeFile(options.out, spec && /\.p[gp]m$/.test(options.out) ? picture(images, spec, options.n) : raw);
} catch (error) {
  const advice = error.code === 'ERR_MODULE_NOT_FOUND' ? '; run npm ci in this folder first' : '';
  console.error(`generate.mjs: ${error.message.split('\n')[0]}${advice}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
