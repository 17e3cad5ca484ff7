// Digits with onnxruntime-node: see README.md.
//
//   node digits.mjs MODEL.onnx --seed 7 --n 20 --label=0,1,-1 --out digits.pgm    a picture to look at
//   node digits.mjs MODEL.onnx --seed 7 --n 20 --out digits.raw                   what the model gives, row by row
//   node digits.mjs latents --seed 7 --n 4 --out z.f32                            the latents alone, float32 (4, 100)

import { access, writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { keyOf, labels, latents } from '../../export/web/latents.js';

const CLASSES = 10; // onnxruntime-node does not show a model's metadata, where they stand

class UsageError extends Error {}

function readOptions() {
  const text = (fallback) => ({ type: 'string', default: fallback });
  const known = { seed: text('0'), n: text('16'), label: text(''), out: text(''), threads: text('0'), repeat: text('0') };
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
  const label = values.label === '' ? [] : values.label.split(',');
  if (!label.every((one) => /^(-1|\d)$/.test(one))) {
    throw new UsageError(`--label takes 0 to ${CLASSES - 1}, or -1 for what the seed draws, found ${values.label}`);
  }
  if (positionals.length !== 1 || values.out === '') {
    throw new UsageError('node digits.mjs MODEL.onnx --seed S --n N [--label=0,1,...] --out FILE');
  }
  return {
    model: positionals[0],
    seed: BigInt(values.seed),
    n: whole('n', 1, 2 ** 32 - 1),
    label: label.map(BigInt),
    out: values.out,
    threads: whole('threads', 0, 1024),
    repeat: whole('repeat', 0, 1e6),
  };
}

// What the model takes: a seed, or latents and labels made of it here.
function makeInputs({ Tensor }, session, { seed, n, label }) {
  const taken = (name) => session.inputNames.includes(name);
  const integers = (values, shape = [values.length]) => new Tensor('int64', BigInt64Array.from(values), shape);
  if (label.length && !taken('label')) {
    throw new UsageError('--label is for conditional models, and this one makes any digit');
  }
  const asked = label.length ? label : [-1n]; // in turn
  if (taken('seed')) { // the model makes its latents itself
    const feeds = { seed: integers([seed], []), n: integers([BigInt(n)], []) };
    return taken('label') ? { ...feeds, label: integers(asked) } : feeds;
  }
  if (!taken('z')) throw new Error('the model takes neither z nor a seed; give a file of dcgan-export');
  const latentDim = session.inputMetadata.find((input) => input.name === 'z').shape[1];
  const feeds = { z: new Tensor('float32', latents(seed, 0, n, latentDim), [n, latentDim]) };
  if (!taken('label')) return feeds;
  const turn = (drawn, i) => (asked[i % asked.length] < 0n ? drawn : asked[i % asked.length]);
  return { ...feeds, label: integers(labels(seed, 0, n, CLASSES).map(turn)) };
}

// Runs the model; its images: float32 (n, 1, 28, 28) from -1 to 1, or grey levels (n, 28, 28).
async function generate(options) {
  await access(options.model);
  const ort = await import('onnxruntime-node');
  const settings = options.threads ? { intraOpNumThreads: options.threads } : {};
  const session = await ort.InferenceSession.create(options.model, settings);
  const feeds = makeInputs(ort, session, options);
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
  return images;
}

// A PGM file, ten digits a row.
function picture(images, n) {
  const columns = Math.min(n, 10);
  const [width, height] = [28 * columns, 28 * Math.ceil(n / columns)];
  const header = Buffer.from(`P5 ${width} ${height} 255\n`);
  const file = Buffer.concat([header, Buffer.alloc(width * height)]);
  // -1 is black; a runtime may give 1.0000002
  const level = images instanceof Uint8Array ? (x) => x : (x) => Math.min(255, Math.max(0, Math.round((x + 1) * 127.5)));
  images.forEach((value, at) => {
    const [digit, row, column] = [Math.floor(at / 784), Math.floor((at % 784) / 28), at % 28];
    const [y, x] = [28 * Math.floor(digit / columns) + row, 28 * (digit % columns) + column];
    file[header.length + y * width + x] = level(value);
  });
  return file;
}

try {
  const options = readOptions();
  const justLatents = options.model === 'latents';
  const numbers = justLatents ? latents(options.seed, 0, options.n, 100) : await generate(options);
  const raw = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength); // little-endian on x86 and ARM
  await writeFile(options.out, options.out.endsWith('.pgm') && !justLatents ? picture(numbers, options.n) : raw);
} catch (error) {
  const advice = error.code === 'ERR_MODULE_NOT_FOUND' ? '; run npm install in this folder first' : '';
  console.error(`digits.mjs: ${error.message.split('\n')[0]}${advice}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
