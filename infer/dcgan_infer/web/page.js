// The page: what people touch, and what they see. Making digits is generator.js.

import { openGenerator } from "./generator.js";
import { latents } from "./latents.js";

const SEEDS = 1n << 63n;
const SEEDS_ARE = "A seed is a whole number from 0 to 9223372036854775807.";
const BATCH = 8; // of the grid: the first digits are seen while the others are made
const MAP = 9; // digits along a side of the pad
const REACH = Math.PI / 2; // from the pad's middle to an edge: at a right angle nothing of the middle is left
const KEY_STEP = 0.05;
const SAVED_SCALE = 8;

const byId = (id) => document.getElementById(id);
const [seedBox, grid, stage, pad, point] = ["seed", "grid", "stage", "pad", "point"].map(byId);

let generator;
const state = { seed: 0n, digit: null, chosen: 0, x: 0, y: 0 };
let gridImages = new Uint8Array();
let request = 0; // what is asked for later makes what was asked for before void

// ---- drawing

/** Draw grey levels as black ink of that strength; style.css inverts it in the dark. */
function draw(canvas, levels, width, height, left = 0, top = 0) {
  const image = new ImageData(width, height);
  for (let i = 0; i < levels.length; i += 1) image.data[4 * i + 3] = levels[i];
  canvas.getContext("2d").putImageData(image, left, top);
}

/** @param {string} what the digit is, for the name of its file */
function showStage(levels, what) {
  draw(stage, levels, generator.width, generator.height);
  stage.shown = { levels, what };
}

/** Save images as one PNG, white on black as dcgan-infer saves them. */
function save(name, images, columns) {
  const { width, height } = generator;
  const size = width * height;
  const count = images.length / size;
  const canvas = document.createElement("canvas");
  canvas.width = columns * width;
  canvas.height = Math.ceil(count / columns) * height;
  const context = canvas.getContext("2d");
  for (let i = 0; i < count; i += 1) {
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer); // red, green and blue alike, and nothing shines through
    for (let at = 0; at < size; at += 1) pixels[at] = 0xff000000 | (images[i * size + at] * 0x010101);
    context.putImageData(image, (i % columns) * width, Math.floor(i / columns) * height);
  }
  const large = document.createElement("canvas");
  [large.width, large.height] = [canvas.width * SAVED_SCALE, canvas.height * SAVED_SCALE];
  const scaled = large.getContext("2d");
  scaled.imageSmoothingEnabled = false;
  scaled.drawImage(canvas, 0, 0, large.width, large.height);
  large.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${name}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}

const nameOf = (what) =>
  [generator.about.name, `seed-${state.seed}`, state.digit === null ? "" : `digit-${state.digit}`, what].filter(Boolean).join("-");

// ---- the grid

const columns = () => (window.innerWidth < 480 ? 6 : 8);
const rows = () => (window.innerWidth < 480 ? 5 : 6);

function layGrid() {
  grid.style.setProperty("--columns", columns());
  const cells = Array.from({ length: columns() * rows() }, (_, i) => {
    const cell = document.createElement("button");
    cell.type = "button";
    cell.setAttribute("role", "option");
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [generator.width, generator.height];
    cell.append(canvas);
    cell.addEventListener("click", () => choose(i).catch(fail));
    return cell;
  });
  grid.replaceChildren(...cells);
}

async function fillGrid() {
  const mine = (request += 1);
  const { seed, digit } = state;
  const size = generator.width * generator.height;
  const count = grid.children.length;
  setSaving(false); // what is seen is not yet what the controls say
  select(Math.min(state.chosen, count - 1));
  const images = new Uint8Array(count * size);
  const asked = generator.labelsOf(seed, 0, count, digit);
  for (let first = 0; first < count; first += BATCH) {
    const some = Math.min(BATCH, count - first);
    const levels = await generator.imagesOf(seed, first, some, digit);
    if (mine !== request) return;
    images.set(levels, first * size);
    for (let i = 0; i < some; i += 1) {
      const cell = grid.children[first + i];
      draw(cell.firstChild, levels.subarray(i * size, (i + 1) * size), generator.width, generator.height);
      cell.setAttribute("aria-label", `Image ${first + i}${asked ? `, a ${asked[first + i]}` : ""}`);
    }
    if (first === 0) performance.mark("first-digit");
    await nextFrame();
    if (mine !== request) return;
  }
  gridImages = images;
  await Promise.all([drawPoint(), drawMap()]);
  if (mine === request) setSaving(true);
}

function setSaving(possible) {
  for (const id of ["save-grid", "save-digit"]) byId(id).disabled = !possible;
}

const nextFrame = () => new Promise((resolve) => requestAnimationFrame(resolve));

// ---- the pad: around a latent, along two directions, on the sphere that latents lie on

/** The chosen latent and two directions, orthogonal and as long as it is: its neighbours, made so (Gram and Schmidt). */
let basis;

function makeBasis() {
  const dim = generator.latentDim;
  const all = latents(state.seed, state.chosen, 3, dim);
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const made = [];
  for (let k = 0; k < 3; k += 1) {
    const vector = Float64Array.from(all.subarray(k * dim, (k + 1) * dim));
    for (const other of made) {
      const share = dot(vector, other) / dot(other, other);
      for (let i = 0; i < dim; i += 1) vector[i] -= share * other[i];
    }
    const length = k === 0 ? 1 : Math.sqrt(dot(made[0], made[0]) / dot(vector, vector));
    made.push(vector.map((value) => value * length));
  }
  basis = made;
}

/** The latent at a point of the pad, x and y from -1 to 1, written into `z` at `at`. */
function latentAt(x, y, z = new Float32Array(generator.latentDim), at = 0) {
  const far = Math.hypot(x, y);
  const middle = Math.cos(far * REACH);
  const edge = far === 0 ? 0 : Math.sin(far * REACH) / far;
  for (let i = 0; i < generator.latentDim; i += 1) {
    z[at + i] = middle * basis[0][i] + edge * (x * basis[1][i] + y * basis[2][i]);
  }
  return z;
}

const labelOfChosen = (count = 1) => {
  const label = generator.labelsOf(state.seed, state.chosen, 1, state.digit);
  return label && new BigInt64Array(count).fill(label[0]);
};

async function choose(index) {
  select(index);
  await Promise.all([drawPoint(), drawMap()]);
}

/** Put the pad around an image of the grid; nothing is drawn yet. */
function select(index) {
  stopWalk();
  place = index;
  Object.assign(state, { chosen: index, x: 0, y: 0 });
  for (const [i, cell] of [...grid.children].entries()) {
    cell.setAttribute("aria-selected", i === index);
    cell.tabIndex = i === index ? 0 : -1; // one stop of the Tab key; the arrows go on from there
  }
  [byId("chosen").textContent, byId("right").textContent, byId("down").textContent] = [index, index + 1, index + 2];
  makeBasis();
  movePoint();
}

async function drawMap() {
  const mine = `${state.seed} ${state.digit} ${state.chosen}`;
  const { width, height, latentDim } = generator;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [MAP * width, MAP * height];
  for (let row = 0; row < MAP; row += 1) {
    const z = new Float32Array(MAP * latentDim);
    for (let column = 0; column < MAP; column += 1) {
      latentAt((2 * column + 1) / MAP - 1, (2 * row + 1) / MAP - 1, z, column * latentDim);
    }
    const levels = await generator.images(z, labelOfChosen(MAP));
    if (mine !== `${state.seed} ${state.digit} ${state.chosen}`) return;
    for (let column = 0; column < MAP; column += 1) {
      const one = levels.subarray(column * width * height, (column + 1) * width * height);
      draw(canvas, one, width, height, column * width, row * height);
    }
    if (row % 3 === 2) await nextFrame(); // let a drag through
  }
  const map = byId("map");
  [map.width, map.height] = [canvas.width, canvas.height];
  map.getContext("2d").drawImage(canvas, 0, 0);
}

function movePoint() {
  point.style.left = `${50 + 50 * state.x}%`;
  point.style.top = `${50 + 50 * state.y}%`;
  byId("place").textContent = "";
}

/** Draw the digit at the point: one run at a time, and when it is done the newest point, so that no drag piles up. */
let drawing = false;
let drawAgain = false;

async function drawPoint() {
  if (drawing) {
    drawAgain = true;
    return;
  }
  drawing = true;
  try {
    do {
      drawAgain = false;
      const what = `around-${state.chosen}`;
      const levels = await generator.images(latentAt(state.x, state.y), labelOfChosen());
      if (!walking) showStage(levels, what);
      if (drawAgain) await nextFrame();
    } while (drawAgain);
  } finally {
    drawing = false;
  }
}

function moveTo(x, y) {
  stopWalk();
  const inside = (value) => Math.min(1, Math.max(-1, value));
  Object.assign(state, { x: inside(x), y: inside(y) });
  movePoint();
  drawPoint().catch(fail);
}

// ---- a walk: from each image of the seed to the next, on the arc between them (Shoemake 1985)

let walking = null;
let place = 0; // between which images: 3.4 is four tenths of the way from image 3 to image 4

function slerp(a, b, t) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const cosine = Math.min(1, Math.max(-1, dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))));
  const angle = Math.acos(cosine);
  const [from, to] = Math.sin(angle) < 1e-6 ? [1 - t, t] : [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)];
  return a.map((value, i) => from * value + to * b[i]);
}

async function walk() {
  const mine = {};
  walking = mine;
  byId("walk").textContent = "Pause";
  const { seed, digit } = state;
  let before = performance.now();
  while (walking === mine) {
    const now = await nextFrame();
    place += (Math.max(0, now - before) / 1000) * Number(byId("speed").value);
    before = now;
    const from = Math.floor(place);
    const [a, b] = [0, 1].map((k) => latents(seed, from + k, 1, generator.latentDim));
    const label = generator.labelsOf(seed, from + (place - from < 0.5 ? 0 : 1), 1, digit);
    const levels = await generator.images(slerp(a, b, place - from), label);
    if (walking !== mine) return;
    showStage(levels, `walk-${place.toFixed(2)}`);
    byId("place").textContent = `image ${from} to ${from + 1}`;
  }
}

function stopWalk() {
  walking = null;
  byId("walk").textContent = "Play a walk";
}

// ---- the controls

function readHash() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const seed = parseSeed(hash.get("seed") ?? "0");
  const digit = hash.get("digit");
  byId("problem").textContent = seed === null ? `The link's seed is none. ${SEEDS_ARE}` : "";
  state.seed = seed ?? 0n;
  state.digit = /^\d$/.test(digit ?? "") && Number(digit) < generator.classes ? Number(digit) : null;
  seedBox.value = `${state.seed}`;
  for (const input of byId("digits").querySelectorAll("input")) input.checked = input.value === `${state.digit ?? "any"}`;
}

/** A whole number from 0 to 2^63 - 1, or null. */
function parseSeed(text) {
  if (!/^\d{1,19}$/.test(text.trim())) return null;
  const seed = BigInt(text.trim());
  return seed < SEEDS ? seed : null;
}

function askFor(changes) {
  Object.assign(state, changes, { chosen: 0 });
  seedBox.value = `${state.seed}`;
  seedBox.removeAttribute("aria-invalid");
  byId("problem").textContent = "";
  history.replaceState(null, "", `#seed=${state.seed}${state.digit === null ? "" : `&digit=${state.digit}`}`);
  stopWalk();
  fillGrid().catch(fail);
}

function askForSeed(text) {
  const seed = parseSeed(text);
  if (seed === null) {
    seedBox.setAttribute("aria-invalid", "true");
    byId("problem").textContent = SEEDS_ARE;
    return;
  }
  // Enter is heard twice: as a change, and as a submission.
  if (seed !== state.seed || seedBox.hasAttribute("aria-invalid")) askFor({ seed });
}

function randomSeed() {
  const [word] = crypto.getRandomValues(new Uint32Array(1)); // short enough to read out to somebody
  return BigInt(word % 1_000_000);
}

function makeChoices() {
  byId("digits").hidden = generator.classes === 0;
  const choices = ["any", ...Array(generator.classes).keys()].map((value) => {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "digit", value: `${value}` });
    input.addEventListener("change", () => askFor({ digit: value === "any" ? null : value }));
    label.append(input, `${value}`);
    return label;
  });
  byId("digits").querySelector(".choices").replaceChildren(...choices);
}

function listen() {
  byId("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    askForSeed(seedBox.value);
  });
  seedBox.addEventListener("change", () => askForSeed(seedBox.value));
  byId("previous").addEventListener("click", () => askFor({ seed: (state.seed + SEEDS - 1n) % SEEDS }));
  byId("next").addEventListener("click", () => askFor({ seed: (state.seed + 1n) % SEEDS }));
  byId("random").addEventListener("click", () => askFor({ seed: randomSeed() }));
  byId("walk").addEventListener("click", () => {
    if (walking) {
      stopWalk();
      return;
    }
    walk().catch((error) => {
      stopWalk();
      fail(error);
    });
  });
  byId("save-grid").addEventListener("click", () => save(nameOf(""), gridImages, columns()));
  byId("save-digit").addEventListener("click", () => save(nameOf(stage.shown.what), stage.shown.levels, 1));
  window.addEventListener("hashchange", () => {
    readHash();
    const problem = byId("problem").textContent;
    askFor({});
    byId("problem").textContent = problem;
  });
  let laid = columns();
  window.addEventListener("resize", () => {
    if (columns() === laid) return;
    laid = columns();
    layGrid();
    fillGrid().catch(fail);
  });

  const withOthers = (event) => event.altKey || event.ctrlKey || event.metaKey; // the browser's own: Alt and an arrow goes back
  grid.addEventListener("keydown", (event) => {
    if (withOthers(event)) return;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() }[event.key];
    const next = grid.children[state.chosen + (step ?? NaN)];
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.click();
  });

  const follow = (event) => {
    const box = pad.getBoundingClientRect();
    moveTo((2 * (event.clientX - box.left)) / box.width - 1, (2 * (event.clientY - box.top)) / box.height - 1);
  };
  pad.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    pad.setPointerCapture(event.pointerId);
    follow(event);
  });
  pad.addEventListener("pointermove", (event) => {
    if (pad.hasPointerCapture(event.pointerId)) follow(event);
  });
  pad.addEventListener("keydown", (event) => {
    if (withOthers(event)) return;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Home") moveTo(0, 0);
    else if (step) moveTo(state.x + KEY_STEP * step[0], state.y + KEY_STEP * step[1]);
    else return;
    event.preventDefault();
  });

  byId("gpu").addEventListener("change", (event) => changeBackend(event.target));
  window.addEventListener("unhandledrejection", (event) => fail(event.reason)); // of a drag, or of a choice
}

function say(text, failed = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("failed", failed);
}

function fail(error, what = "This") {
  console.error(error);
  say(`${what} does not work here: ${String(error?.message ?? error).replace(/\.+$/, "")}.`, true);
}

/** Go over to the backend that the box says, or say why not, and stay. */
async function changeBackend(box) {
  box.disabled = true;
  stopWalk();
  say("Loading the model …");
  const before = generator;
  try {
    generator = await openGenerator(box.checked ? "webgpu" : "wasm");
    await fillGrid();
    await before.close();
    await report();
  } catch (error) {
    generator = before;
    box.checked = before.about.backend === "webgpu";
    fail(error, "The other way to make digits");
  }
  box.disabled = false;
}

/** Say what runs, and how fast: the least of twenty single digits. */
async function report() {
  const z = latents(0n, 0, 1, generator.latentDim);
  let least = Infinity;
  for (let i = 0; i < 20; i += 1) {
    const before = performance.now();
    await generator.images(z, generator.labelsOf(0n, 0, 1));
    least = Math.min(least, performance.now() - before);
  }
  const { backend, bytes, threads, name } = generator.about;
  const where = backend === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
  say(`${name}, ${(bytes / 1e6).toFixed(1)} MB, ${where}: ${least.toFixed(1)} ms a digit.`);
}

async function start() {
  generator = await openGenerator();
  [stage.width, stage.height] = [generator.width, generator.height];
  makeChoices();
  readHash();
  layGrid();
  listen();
  await fillGrid();
  byId("walk").disabled = false;
  await report();
  if (await navigator.gpu?.requestAdapter().catch(() => null)) byId("gpu-label").hidden = false;
}

start().catch((error) => {
  document.querySelector("main").hidden = true; // nothing to use, and the reason stands where a phone shows it
  fail(error);
});
