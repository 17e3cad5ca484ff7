// The page: what people touch, and what they see. Making images is generator.js.

import { canTryWebGPU, openGenerator, readSite } from "./generator.js";
import { classesOf, classesOfText, classOf, lettersOf } from "./interface.js";
import { latents } from "./latents.js";
import { pngOf } from "./png.js";

const SEEDS = 1n << 63n;
const BATCH_PIXELS = 8192; // in a batch: the first images are seen while the others are made, and a drag is heard between
const PIXELATED = 32; // pixels along a side, at most, of images that are drawn in squares
const LARGE = 96; // pixels along a side: from here on there are fewer images to see, and each is larger
const BUTTONS = 12; // classes, at most, that have a button each; more stand in a menu
const REACH = Math.PI / 2; // from the pad's middle to an edge: at a right angle nothing of the middle is left
const KEY_STEP = 0.05;
const LARGEST_INDEX = 2 ** 32 - 4; // of an image that has two more after it
const REST = 250; // milliseconds without a change, after which the address says where a drag or a text has led
const [WALK_IMAGES, WALK_STEPS] = [8, 16]; // in a saved walk, and from each of its images to the next
const SAVED_SIDE = 224; // pixels, at least, along the longer side of a saved image

const byId = (id) => document.getElementById(id);
const [seedBox, textBox, grid, sheet, stage, pad, point] = ["seed", "text", "grid", "sheet", "stage", "pad", "point"].map(byId);

let fail; // of start.js
let generator;
let site; // model.json
let ink = false; // whether grey levels are ink on paper, in the colours of the page
const state = { seed: 0n, label: null, chosen: 0, x: 0, y: 0, text: "" }; // label null: as the seed draws
let gridPictures = [];
let request = 0; // what is asked for later makes what was asked for before void

// ---- drawing

/** The pixels of a picture; as ink, grey levels are that much of a tone: black, which style.css inverts in the dark. */
function imageDataOf(picture, tone = 0) {
  const { width, height, channels } = generator;
  const image = new ImageData(width, height);
  for (let at = 0; at < width * height; at += 1) {
    for (let c = 0; c < 3; c += 1) image.data[4 * at + c] = ink ? tone : picture[channels * at + (c % channels)];
    image.data[4 * at + 3] = ink ? picture[at] : 255;
  }
  return image;
}

function draw(canvas, picture, column = 0, row = 0) {
  const { width, height } = generator;
  canvas.getContext("2d").putImageData(imageDataOf(picture), column * width, row * height);
}

/** Show a picture in the stage; `what` it is, for the name of its file, and its facts, for the file. */
function showStage(picture, what, facts) {
  draw(stage, picture);
  stage.shown = { picture, what, facts };
}

function resize(canvas, across = 1, down = 1) {
  [canvas.width, canvas.height] = [across * generator.width, down * generator.height];
  return canvas;
}

/** How many pixels of a file a pixel of an image becomes along each side. */
const scaleOf = () => Math.ceil(SAVED_SIDE / Math.max(generator.width, generator.height));

/**
 * Pictures in rows, enlarged, as a frame of png.js that looks as the page does: ink is on its paper.
 *
 * @param {(Uint8Array | undefined)[]} pictures undefined leaves its place empty
 */
function frameOf(pictures, across) {
  const scale = scaleOf();
  const [width, height] = [across * generator.width * scale, Math.ceil(pictures.length / across) * generator.height * scale];
  const tone = matchMedia("(prefers-color-scheme: dark)").matches ? 255 : 0;
  const paper = getComputedStyle(stage.parentElement).backgroundColor.match(/\d+/g).map(Number);
  const colours = new Uint8ClampedArray(3 * width * height);
  for (let i = 0; i < width * height; i += 1) {
    const [x, y] = [Math.floor((i % width) / scale), Math.floor(i / width / scale)];
    const picture = pictures[Math.floor(y / generator.height) * across + Math.floor(x / generator.width)];
    const from = generator.channels * ((y % generator.height) * generator.width + (x % generator.width));
    for (let c = 0; c < 3; c += 1) {
      const level = picture?.[from + (c % generator.channels)];
      colours[3 * i + c] = !picture ? paper[c] : ink ? paper[c] + ((tone - paper[c]) * level) / 255 : level;
    }
  }
  return { width, height, colours };
}

/** Let the browser save a PNG, with text that says how to make it again: keys as dcgan-infer writes them. */
async function save(name, frames, facts, milliseconds) {
  const { backend, models, runtime } = generator.about;
  const all = {
    Software: ["dcgan-toolkit's page", ...(runtime ? [`${runtime.package} ${runtime.version}`] : [])].join(", "),
    "dcgan.model": site.name,
    "dcgan.model_sha256": models[backend].sha256,
    "dcgan.provider": backend,
    ...facts,
    "dcgan.scale": `${scaleOf()}`,
  };
  const known = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
  const png = await pngOf(frames, known, milliseconds);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([png], { type: "image/png" }));
  link.download = `${name}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Facts of images `start` to `start + n - 1` of the seed; `labels` if they were asked for, else the seed drew them. */
function factsOf(start, n, labels = state.label === null ? [] : [state.label]) {
  const digits = classes.join() === "0,1,2,3,4,5,6,7,8,9";
  const names = labels.map((label) => classes[label]).join(digits ? " " : "\n");
  return { "dcgan.seed": `${state.seed}`, "dcgan.start": `${start}`, "dcgan.n": `${n}`, ...(names && { [digits ? "dcgan.digits" : "dcgan.class"]: names }) };
}

/** The class that a walk shows: one can't be half another. Asked for, or that of the image where it begins; or null. */
const classOfWalk = (seed, label, start) => label ?? generator.labelsOf(seed, start, 1)?.[0] ?? null;

function saveGrid() {
  const { columns } = layout();
  const facts = { ...factsOf(0, gridPictures.length), "dcgan.grid": `${gridPictures.length / columns}x${columns}` };
  return save(nameOf(""), [frameOf(gridPictures, columns)], facts);
}

function saveOne() {
  const { picture, what, facts } = stage.shown;
  return save(nameOf(what), [frameOf([picture], 1)], facts);
}

function saveText() {
  const { text, pictures, labels } = sheet;
  const facts = { ...factsOf(0, labels.length, labels), "dcgan.text": text };
  return save(nameOf(`text-${asFileName(text)}`), [frameOf(pictures, pictures.length)], facts);
}

/** Save the walk from where it is, once around some images and back to the first, as `dcgan-infer --interpolate` does. */
async function saveWalk(button) {
  button.disabled = true;
  const n = Math.max(generator.width, generator.height) < LARGE ? WALK_IMAGES : WALK_IMAGES / 2;
  const { seed } = state; // which may be another by the end
  const start = Math.floor(place);
  const label = classOfWalk(seed, state.label, start);
  const [name, facts, frames] = [nameOf(`walk-from-${start}`), factsOf(start, n, label === null ? [] : [label]), []];
  const milliseconds = Math.round(1000 / (WALK_STEPS * Number(byId("speed").value)));
  try {
    for (let i = 0; i < n * WALK_STEPS; i += 1) {
      const [from, share] = [Math.floor(i / WALK_STEPS), (i % WALK_STEPS) / WALK_STEPS];
      const picture = await between(seed, start + from, start + ((from + 1) % n), share, label);
      frames.push(frameOf([picture], 1));
    }
    await save(name, frames, { ...facts, "dcgan.interpolate": `${WALK_STEPS}` }, milliseconds);
  } finally {
    button.disabled = false;
  }
}

const asFileName = (text) => text.replace(/[^\p{L}\p{N}]+/gu, "_");

const nameOf = (what) =>
  [site.name, `seed-${state.seed}`, state.label === null ? "" : asFileName(classes[state.label]), what].filter(Boolean).join("-");

// ---- the grid

/** Columns and rows, so that images of any shape fill about as much of the screen. */
function layout() {
  const { width, height } = generator;
  const large = Math.max(width, height) >= LARGE;
  const [across, down] = window.innerWidth < 480 ? (large ? [3, 4] : [6, 5]) : large ? [5, 4] : [8, 6];
  const columns = Math.max(1, Math.round(across * Math.sqrt(height / width)));
  return { columns, count: columns * Math.max(1, Math.round((across * down) / columns)) };
}

function layGrid() {
  const { columns, count } = layout();
  grid.style.setProperty("--columns", columns);
  const cells = Array.from({ length: count }, (_, i) => {
    const cell = document.createElement("button");
    cell.type = "button";
    cell.setAttribute("role", "option");
    cell.append(resize(document.createElement("canvas")));
    cell.addEventListener("click", ({ detail }) => {
      choose(i).catch(fail);
      const isBelow = byId("around").offsetTop > grid.offsetTop + grid.offsetHeight; // as on a phone
      const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : "smooth";
      if (isBelow && detail > 0) byId("around").scrollIntoView({ behavior }); // 0 clicks: it was a key
    });
    return cell;
  });
  grid.replaceChildren(...cells);
}

/** Make pictures in batches, a frame after each; gives each one's index, and the picture. */
async function* picturesOf(z, label) {
  const { latentDim, size, width, height } = generator;
  const count = z.length / latentDim;
  const batch = Math.min(8, Math.max(1, Math.round(BATCH_PIXELS / (width * height))));
  for (let first = 0; first < count; first += batch) {
    const end = Math.min(first + batch, count);
    const made = await generator.images(z.subarray(first * latentDim, end * latentDim), label?.subarray(first, end));
    for (let i = first; i < end; i += 1) yield [i, made.subarray((i - first) * size, (i - first + 1) * size)];
    await nextFrame();
  }
}

async function fillGrid() {
  const mine = (request += 1);
  const count = grid.children.length;
  setSaving(false); // what is seen is not yet what the controls say
  select(state.chosen, state.x, state.y);
  const pictures = [];
  const label = generator.labelsOf(state.seed, 0, count, state.label);
  for await (const [i, picture] of picturesOf(latents(state.seed, 0, count, generator.latentDim), label)) {
    if (mine !== request) return;
    pictures[i] = picture;
    const cell = grid.children[i];
    draw(cell.firstChild, picture);
    cell.setAttribute("aria-label", `Image ${i}${label ? `: ${classes[label[i]]}` : ""}`);
    if (i === 0) performance.mark("first-image");
  }
  if (mine !== request) return;
  gridPictures = pictures;
  await Promise.all([drawPoint(), write(), drawMap()]);
  if (mine === request) setSaving(true);
}

function setSaving(possible) {
  for (const id of ["save-grid", "save-one", "save-walk", ...(possible ? [] : ["save-text"])]) byId(id).disabled = !possible;
}

const nextFrame = () => new Promise((resolve) => requestAnimationFrame(resolve));

// ---- writing: each letter is an image of the class that is called by it

let writing = 0; // the request, as that of the grid

/** Write the text of the box, or else the example in it. */
async function write() {
  const { spec } = generator.about;
  const names = lettersOf(spec);
  if (names.length === 0) return;
  const mine = (writing += 1);
  byId("save-text").disabled = true;
  const text = state.text || textBox.placeholder;
  const places = classesOfText(spec, text);
  const letters = [...places.keys()].filter((i) => places[i].label !== undefined); // letter k takes latent k of the seed
  const unknown = new Set(letters.filter((i) => places[i].label < 0).map((i) => places[i].letter));
  byId("text-problem").textContent = unknown.size ? `It has no ${[...unknown].join(" ")}: the model writes ${names.slice(0, 100).join(" ")}.` : "";
  const cells = places.map(() => resize(document.createElement("canvas")));
  const pictures = places.map(() => undefined);
  const z = latents(state.seed, 0, letters.length, generator.latentDim);
  const label = BigInt64Array.from(letters, (i) => BigInt(Math.max(0, places[i].label)));
  for await (const [k, picture] of picturesOf(z, label)) {
    if (mine !== writing) return;
    if (places[letters[k]].label >= 0) draw(cells[letters[k]], (pictures[letters[k]] = picture));
  }
  if (mine !== writing) return;
  Object.assign(sheet, { text, pictures, labels: letters.map((i) => places[i].label) }).replaceChildren(...cells);
  sheet.style.setProperty("--places", places.length);
  sheet.setAttribute("aria-label", `${text}, written by the model`);
  byId("save-text").disabled = unknown.size > 0 || letters.length === 0;
}

/** Show the box if there are letters to write with; where there are all ten digits the example is today's date. */
function makeWriting() {
  const names = lettersOf(generator.about.spec);
  byId("writing").hidden = names.length === 0;
  if (names.some((name) => !/\p{N}/u.test(name))) byId("writing-title").textContent = "Write a word";
  const hasDigits = [..."0123456789"].every((digit) => names.includes(digit));
  textBox.placeholder = hasDigits ? new Date().toLocaleDateString("sv") : names.slice(0, 10).join(""); // Sweden's is ISO 8601
}

// ---- the pad: around a latent, along two directions, on the sphere that latents lie on

/** The chosen latent and two directions, orthogonal and as long as it is: its neighbours, made so (Gram and Schmidt). */
let basis;
let mapRequest = 0;

function makeBasis() {
  const dim = generator.latentDim;
  const all = latents(state.seed, state.chosen, 3, dim);
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const made = [];
  for (let k = 0; k < 3; k += 1) {
    const vector = Float64Array.from(all.subarray(k * dim, (k + 1) * dim));
    const before = dot(vector, vector);
    for (const other of made) {
      const share = dot(vector, other) / (dot(other, other) || 1);
      for (let i = 0; i < dim; i += 1) vector[i] -= share * other[i];
    }
    const left = dot(vector, vector);
    // Latents of one or two numbers have no second or third direction.
    const length = k === 0 ? 1 : left > 1e-12 * before ? Math.sqrt(dot(made[0], made[0]) / left) : 0;
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
  const label = generator.labelsOf(state.seed, state.chosen, 1, state.label);
  return label && new BigInt64Array(count).fill(label[0]);
};

async function choose(index) {
  noteNow();
  select(index);
  note();
  await Promise.all([drawPoint(), drawMap()]);
}

/** Put the pad around an image of the seed, which the grid may be too small to hold; nothing is drawn yet. */
function select(index, x = 0, y = 0) {
  stopWalk();
  place = index;
  Object.assign(state, { chosen: index, x, y });
  const stop = Math.min(index, grid.children.length - 1);
  for (const [i, cell] of [...grid.children].entries()) {
    cell.setAttribute("aria-selected", i === index);
    cell.tabIndex = i === stop ? 0 : -1; // one stop of the Tab key; the arrows go on from there
  }
  byId("chosen").textContent = index;
  makeBasis();
  movePoint();
}

async function drawMap() {
  const mine = (mapRequest += 1);
  const { width, height, latentDim } = generator;
  const side = Math.max(width, height) < LARGE ? 9 : 5;
  const z = new Float32Array(side * side * latentDim);
  for (let i = 0; i < side * side; i += 1) {
    latentAt((2 * (i % side) + 1) / side - 1, (2 * Math.floor(i / side) + 1) / side - 1, z, i * latentDim);
  }
  const map = resize(byId("map"), side, side);
  for await (const [i, picture] of picturesOf(z, labelOfChosen(side * side))) {
    if (mine !== mapRequest) return;
    draw(map, picture, i % side, Math.floor(i / side));
  }
}

function movePoint() {
  point.style.left = `${50 + 50 * state.x}%`;
  point.style.top = `${50 + 50 * state.y}%`;
  byId("place").textContent = "";
}

/** Draw the image at the point: one run at a time, and when it is done the newest point, so that no drag piles up. */
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
      const { x, y } = state;
      const facts = { ...factsOf(state.chosen, 1), ...(x || y ? { "dcgan.pad": `${x},${y}` } : {}) }; // before it is another
      const picture = await generator.images(latentAt(x, y), labelOfChosen());
      if (!walking) showStage(picture, what, facts);
      if (drawAgain) await nextFrame();
    } while (drawAgain);
  } finally {
    drawing = false;
  }
}

function moveTo(x, y) {
  stopWalk();
  const inside = (value) => Math.round(1000 * Math.min(1, Math.max(-1, value))) / 1000; // as the address has it
  Object.assign(state, { x: inside(x), y: inside(y) });
  movePoint();
  noteSoon();
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

/** The image on the way from one image of a seed to another. */
function between(seed, from, to, share, wanted) {
  const [a, b] = [from, to].map((index) => latents(seed, index, 1, generator.latentDim));
  return generator.images(slerp(a, b, share), generator.labelsOf(seed, from, 1, wanted));
}

async function walk() {
  const mine = {};
  walking = mine;
  byId("walk").textContent = "Pause";
  const { seed } = state;
  const wanted = classOfWalk(seed, state.label, Math.floor(place));
  let before = performance.now();
  while (walking === mine) {
    const now = await nextFrame();
    place += (Math.max(0, now - before) / 1000) * Number(byId("speed").value);
    before = now;
    const from = Math.floor(place);
    const picture = await between(seed, from, from + 1, place - from, wanted);
    if (walking !== mine) return;
    const what = `walk-${place.toFixed(2)}`;
    showStage(picture, what, { ...factsOf(from, 2, wanted === null ? [] : [wanted]), "dcgan.walk": place.toFixed(6) });
    byId("place").textContent = `${nounOf()} ${from} to ${from + 1}`;
  }
}

function stopWalk() {
  walking = null;
  byId("walk").textContent = "Play a walk";
}

// ---- the controls

/** A whole number of a text, below a bound. */
function parseWhole(text, bound, what) {
  if (!/^\d{1,19}$/.test(text.trim()) || BigInt(text.trim()) >= bound) throw new RangeError(what);
  return BigInt(text.trim());
}

const parseSeed = (text) => parseWhole(text, SEEDS, `a seed is a whole number from 0 to ${SEEDS - 1n}`);

/** How to read each part of an address: from a text to what `state` holds, or a RangeError that says what it takes. */
const PARTS = {
  seed: parseSeed,
  class: (text) => (text === "-1" ? null : classOf(generator.about.spec, text)),
  image: (text) => Number(parseWhole(text, BigInt(LARGEST_INDEX + 1), `an image is a whole number from 0 to ${LARGEST_INDEX}`)),
  x: parseSide,
  y: parseSide,
  text: (text) => {
    if (lettersOf(generator.about.spec).length === 0) throw new RangeError("this model has no letters to write with");
    if (text.length > textBox.maxLength) throw new RangeError(`a text has at most ${textBox.maxLength} characters`);
    return text;
  },
};

function parseSide(text) {
  if (!/^-?[01](\.\d+)?$/.test(text) || Math.abs(Number(text)) > 1) throw new RangeError("a place on the map is a number from -1 to 1");
  return Number(text);
}

/** Take all from the address; what can't be read is as if it were not there, and said. */
function readHash() {
  clearTimeout(resting);
  resting = undefined;
  const found = { seed: 0n, class: null, image: 0, x: 0, y: 0, text: "" };
  const refused = [];
  for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
    try {
      if (Object.hasOwn(PARTS, name)) found[name] = PARTS[name](text);
    } catch (error) {
      refused.push(`${name}=${text.slice(0, 40)} (${error.message})`);
    }
  }
  const { class: label, image: chosen, ...rest } = found;
  Object.assign(state, rest, { label, chosen });
  byId("problem").textContent = refused.length ? `Not taken from the address: ${refused.join(", ")}.` : "";
  seedBox.value = `${state.seed}`;
  seedBox.removeAttribute("aria-invalid");
  textBox.value = state.text;
  showChoice(state.label === null ? "" : `${state.label}`);
}

/** The address of what is seen: all that readHash takes, less what is as it would be anyway. */
function hashOf({ seed, label, chosen, x, y, text }) {
  const parts = { seed, class: label === null ? "" : classes[label], image: chosen || "", x: x || "", y: y || "", text };
  return `#${Object.entries(parts).filter(([, value]) => value !== "").map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&")}`;
}

// A seed, a class and an image are each an entry of the browser's history. Where a drag or a text has led stands in the
// address of the entry once it rests: browsers let a page change its address some hundred times in half a minute.
let resting;

function note(how = "pushState") {
  if (hashOf(state) !== location.hash) history[how](null, "", hashOf(state));
}

function noteSoon() {
  clearTimeout(resting);
  resting = setTimeout(noteNow, REST);
}

/** Note what rests, if anything, before it is left behind. */
function noteNow() {
  if (resting === undefined) return;
  clearTimeout(resting);
  resting = undefined;
  note("replaceState");
}

async function copyLink() {
  noteNow();
  note("replaceState");
  let done = true;
  try {
    await navigator.clipboard.writeText(location.href);
  } catch {
    // Browsers have no clipboard for pages on plain http, but the older command.
    const box = document.createElement("textarea");
    box.value = location.href;
    document.body.append(box);
    box.select();
    done = document.execCommand("copy");
    box.remove();
    byId("copy").focus();
  }
  byId("copied").textContent = done ? "Copied" : "Copy it from the address bar";
  setTimeout(() => (byId("copied").textContent = ""), 3000);
}

function askFor(changes) {
  noteNow();
  Object.assign(state, changes, { chosen: 0, x: 0, y: 0 });
  seedBox.value = `${state.seed}`;
  seedBox.removeAttribute("aria-invalid");
  byId("problem").textContent = "";
  note();
  fillGrid().catch(fail);
}

function askForSeed(text) {
  try {
    const seed = parseSeed(text);
    // Enter is heard twice: as a change, and as a submission.
    if (seed !== state.seed || seedBox.hasAttribute("aria-invalid")) askFor({ seed });
  } catch (error) {
    seedBox.setAttribute("aria-invalid", "true");
    byId("problem").textContent = `${error.message.replace(/^a/, "A")}.`;
  }
}

function randomSeed() {
  const [word] = crypto.getRandomValues(new Uint32Array(1)); // short enough to read out to somebody
  return BigInt(word % 1_000_000);
}

let classes = []; // their names
let showChoice; // mark a class, by its number, or by no text for any

function makeChoices() {
  classes = classesOf(generator.about.spec);
  const choices = [["", "any"], ...classes.map((name, number) => [`${number}`, name])];
  const ask = ({ target }) => askFor({ label: target.value === "" ? null : Number(target.value) });
  const menu = document.createElement("select");
  menu.append(...choices.map(([value, name]) => new Option(name, value)));
  menu.setAttribute("aria-labelledby", "class-title");
  const buttons = choices.map(([value, name]) => {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "class", value });
    label.append(input, name);
    return label;
  });
  byId("classes").hidden = classes.length === 0;
  const made = classes.length > BUTTONS ? [menu] : buttons;
  const box = byId("classes").querySelector(".choices");
  box.replaceChildren(...made);
  box.addEventListener("change", ask);
  showChoice = (value) => {
    menu.value = value;
    for (const button of buttons) button.firstChild.checked = button.firstChild.value === value;
  };
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
  for (const [id, saveIt] of [["save-grid", saveGrid], ["save-one", saveOne], ["save-text", saveText], ["save-walk", saveWalk]]) {
    byId(id).addEventListener("click", ({ currentTarget }) => saveIt(currentTarget).catch((error) => fail(error, "Saving")));
  }
  textBox.addEventListener("input", () => {
    state.text = textBox.value;
    noteSoon();
    write().catch(fail);
  });
  byId("another").addEventListener("click", () => askFor({ seed: (state.seed + 1n) % SEEDS }));
  byId("copy").addEventListener("click", () => copyLink().catch(fail));
  window.addEventListener("hashchange", () => {
    readHash();
    fillGrid().catch(fail);
  });
  let laid = layout().columns;
  window.addEventListener("resize", () => {
    if (layout().columns === laid) return;
    laid = layout().columns;
    layGrid();
    fillGrid().catch(fail);
  });

  const withOthers = (event) => event.altKey || event.ctrlKey || event.metaKey; // the browser's own: Alt and an arrow goes back
  grid.addEventListener("keydown", (event) => {
    if (withOthers(event)) return;
    const { columns } = layout();
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
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

function say(text) {
  byId("status").textContent = text;
  byId("status").classList.remove("failed");
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
    fail(error, "The other way to make images");
  }
  box.disabled = false;
}

/** Say what runs, and how fast: the least of twenty single images, or of those that half a second has time for. */
async function report() {
  const z = latents(0n, 0, 1, generator.latentDim);
  let least = Infinity;
  const began = performance.now();
  for (let i = 0, before = began; i < 20 && before - began < 500; i += 1) {
    await generator.images(z, generator.labelsOf(0n, 0, 1));
    const now = performance.now();
    [least, before] = [Math.min(least, now - before), now];
  }
  const { backend, bytes, threads, name } = generator.about;
  const where = backend === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
  say(`${name}, ${(bytes / 1e6).toFixed(1)} MB, ${where}: ${least.toFixed(1)} ms per ${nounOf()}.`);
}

const nounOf = () => site.noun ?? "image";

/** Words of the page that model.json may choose. */
function name() {
  const noun = nounOf();
  for (const place of document.querySelectorAll(".noun")) place.textContent = noun;
  const capital = noun[0].toUpperCase() + noun.slice(1);
  const title = site.title ?? `${capital}s that nobody made`;
  [document.title, byId("title").textContent, byId("plural").textContent] = [title, title, `${noun}s`];
  byId("class-title").textContent = site.noun ? capital : "Class";
}

/** What style.css has to know of the images. */
function measure() {
  const { width, height, channels } = generator;
  if (channels !== 1 && channels !== 3) throw new Error(`it draws grey and colour, and these images have ${channels} channels`);
  ink = Boolean(site.ink) && channels === 1;
  document.body.classList.toggle("ink", ink);
  resize(stage);
  document.body.style.setProperty("--aspect", `${width} / ${height}`);
  document.body.classList.toggle("pixelated", Math.max(width, height) <= PIXELATED);
}

/** Let offline.js keep the page; if what it has kept is no longer the host's index.html, the next visit is the host's. */
async function keepOffline(workers) {
  if (!workers.controller) {
    await workers.register("offline.js");
    return;
  }
  const [kept, now] = await Promise.all([fetch("./"), fetch("./", { cache: "no-store" })]); // offline.js lets the second pass
  if (now.ok && (await now.text()) !== (await kept.text())) await (await workers.getRegistration()).unregister();
}

/**
 * Start the page; the rest of it happens by itself.
 *
 * @param {(error: Error, what?: string) => void} show tells people that something failed
 */
export async function start(show) {
  fail = show;
  site = await readSite();
  name();
  generator = await openGenerator();
  measure();
  makeChoices();
  makeWriting();
  readHash();
  layGrid();
  listen();
  await fillGrid();
  byId("walk").disabled = false;
  await report();
  if (await canTryWebGPU()) byId("gpu-label").hidden = false;
  // Only now, when the page works. On plain http there are no service workers, and private windows may refuse them.
  if (navigator.serviceWorker) await keepOffline(navigator.serviceWorker).catch(() => {});
}
