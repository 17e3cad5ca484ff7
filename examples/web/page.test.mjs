// The page in Chromium, as people use it: SITE=site VECTORS=../vectors/dcgan-mnist-conditional node --test page.test.mjs
//
// The site's model may have any size, classes and colours. What more may be given: UNCONDITIONAL, MANY and FOUR_CHANNELS,
// models for the page to show, without classes, with a thousand, and with what no screen shows; EXACT, the site's model in
// fp32; EXPECTED, bytes: what onnxruntime makes of the site's model and the vectors' latents, case by case; SCREENSHOT,
// where to put one; DOWNLOADS, a folder for what the page saves.

import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { after, before, test } from "node:test";
import { OTHER_HOST, closeServers, launch, serve } from "./browser.mjs";

const { SITE = "site", VECTORS = "../vectors/dcgan-mnist-conditional", UNCONDITIONAL, MANY, FOUR_CHANNELS, EXACT, EXPECTED, SCREENSHOT, DOWNLOADS } = process.env;
// Of tests to which the model makes no difference: they are run where EXPECTED is, the shipped model's.
const ONCE = EXPECTED ? false : "done where EXPECTED is";
const SCALE = 224; // a saved image has at least so many pixels along its longer side
const LIMIT = 60_000; // milliseconds, of anything; far more than it takes on an idle machine
let browser;
let server;
let classesOf; // of the site's interface.js
let specOf;
let about; // the site's model.json
let spec; // of its model
let size; // numbers in an image

before(async () => {
  if (!existsSync(`${SITE}/model.json`)) throw new Error(`SITE=${SITE} is no site; make one: dcgan-export --target web --out ${SITE}`);
  ({ classesOf, specOf } = await import(pathToFileURL(resolve(SITE, "interface.js")).href));
  about = JSON.parse(readFileSync(`${SITE}/model.json`, "utf8"));
  spec = specOf(readFileSync(`${SITE}/model.onnx`));
  size = spec.image_shape.reduce((product, side) => product * side);
  browser = await launch();
  server = await serve(SITE);
});

after(async () => {
  await browser?.close();
  closeServers();
});

/** Open the page and wait until it is ready, or has failed. `problems` are what its console said, and who else it asked. */
async function open({ at = server, hash = "", ...options } = {}) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 860 }, acceptDownloads: true, serviceWorkers: "block", ...options });
  page.setDefaultTimeout(LIMIT);
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => {
    // Of navigator.gpu, of how this test reads canvases, and of the service worker, which hosts.test.mjs is about.
    const quiet = message.type() === "log" || /^No available adapters|^Canvas2D: Multiple readback|blocked by Playwright/.test(message.text());
    if (!quiet) problems.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(at.url) && !/^(blob|data):/.test(request.url())) problems.push(request.url());
  });
  await page.goto(at.url + hash);
  await page.waitForFunction(() => /ms per|does not work/.test(document.getElementById("status").textContent));
  return { page, problems };
}

/** What a canvas shows, as the model gave it: the strength of the ink, grey levels, or red, green and blue of each pixel. */
const pictureOf = (page, selector, index = 0) =>
  page.evaluate(
    ([chosen, at, channels]) => {
      const canvas = document.querySelectorAll(chosen)[at];
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const shown = document.body.classList.contains("ink") ? [3] : [0, 1, 2].slice(0, channels);
      return Array.from({ length: data.length / 4 }, (_, i) => shown.map((channel) => data[4 * i + channel])).flat();
    },
    [selector, index, spec.image_shape[0]],
  );

const gridOf = async (page, count) => {
  const images = [];
  for (let i = 0; i < count; i += 1) images.push(await pictureOf(page, "#grid canvas", i));
  return images;
};

const meanDifference = (a, b) => a.reduce((sum, value, i) => sum + Math.abs(value - b[i]), 0) / a.length;

/** The pictures of a test vector, exact to a level; the page's model has 8 bits and is half a level off on average. */
function vectors(seed) {
  const index = JSON.parse(readFileSync(`${VECTORS}/index.json`, "utf8"));
  const found = index.cases.find((entry) => entry.seed === seed);
  const levels = readFileSync(`${VECTORS}/${found.image_uint8.file}`);
  return Array.from({ length: found.n }, (_, i) => [...levels.subarray(i * size, (i + 1) * size)]);
}

const settle = (page) => page.waitForTimeout(150); // a run takes some milliseconds

test("the images of a seed are those of the test vectors", async () => {
  const { page, problems } = await open({ hash: "#seed=7" });
  const right = vectors("7");
  const images = await gridOf(page, right.length);
  images.forEach((image, i) => assert.ok(meanDifference(image, right[i]) < 2, `image ${i} is another one`));
  assert.ok(meanDifference(images[0], right[1]) > 10, "other images would be told apart");
  if (SCREENSHOT) await page.screenshot({ path: SCREENSHOT });
  const first = await page.evaluate(() => performance.getEntriesByName("first-image")[0].startTime);
  console.log(`first image ${Math.round(first)} ms after navigation, with a load of ${loadavg()[0].toFixed(1)} on ${cpus().length} cores`);
  assert.deepEqual(problems, []);
  await page.close();
});

/** Run in the page: all cases of the test vectors, by the site's generator.js; levels, one after the other. */
async function runCases({ file, cases }) {
  const { openGenerator } = await import("/generator.js");
  const { latents } = await import("/latents.js");
  const generator = await openGenerator("wasm", file);
  const made = [];
  for (const { seed, n, asked } of cases) {
    const own = generator.labelsOf(seed, 0, n);
    const label = own?.map((drawn, i) => (asked.length && asked[i % asked.length] >= 0 ? BigInt(asked[i % asked.length]) : drawn));
    made.push(...(await generator.images(latents(seed, 0, n, generator.latentDim), label)));
  }
  await generator.close();
  return made;
}

/** The same from a page of its own, on a server with other files; `right` is what the vectors say. */
async function vectorsMade(files, file) {
  const folder = mkdtempSync(join(tmpdir(), "page-"));
  writeFileSync(join(folder, "blank.html"), '<!doctype html><link rel="icon" href="data:,">');
  const own = await serve(SITE, { files: { "/blank.html": join(folder, "blank.html"), "/exact.onnx": EXACT, ...files(folder) } });
  const { cases } = JSON.parse(readFileSync(`${VECTORS}/index.json`, "utf8"));
  const page = await browser.newPage();
  page.setDefaultTimeout(LIMIT);
  await page.goto(`${own.url}blank.html`);
  const made = await page.evaluate(runCases, { file, cases });
  await page.close();
  own.close();
  rmSync(folder, { recursive: true });
  return { made, right: cases.flatMap(({ image_uint8 }) => [...readFileSync(`${VECTORS}/${image_uint8.file}`)]) };
}

const worst = (a, b) => a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), Math.abs(a.length - b.length));

test("generator.js makes all test vectors of the fp32 model", { skip: EXACT ? false : "no EXACT" }, async () => {
  const { made, right } = await vectorsMade(() => ({}), "exact.onnx");
  assert.ok(worst(made, right) <= 1, `off by ${worst(made, right)} grey levels`);
});

test("the page's model gives what onnxruntime gives elsewhere", { skip: EXPECTED ? false : "no EXPECTED" }, async () => {
  const { made, right } = await vectorsMade(() => ({}));
  const most = worst(made, [...readFileSync(EXPECTED)]);
  console.log(`int8 in WebAssembly is ${most} grey levels from onnxruntime here`);
  assert.ok(most <= 1, `off by ${most} grey levels`);
  assert.ok(meanDifference(made, right) < 1);
});

test("those tests notice other latents and another model", { skip: EXACT ? false : "no EXACT" }, async () => {
  const changed = (name, content) => (folder) => {
    writeFileSync(join(folder, "changed"), content);
    return { [name]: join(folder, "changed") };
  };
  const rounds = readFileSync(`${SITE}/latents.js`, "utf8").replace("[13, 15,", "[13, 14,");
  const model = readFileSync(EXACT);
  // Every thousandth weight of the middle of the file becomes 0.5, where they are near 0.01: one alone may be of a silent unit.
  for (let at = (model.length >> 2) & ~3; at < model.length / 2; at += 4000) model.writeFloatLE(0.5, at);
  for (const files of [changed("/latents.js", rounds), changed("/exact.onnx", model)]) {
    const { made, right } = await vectorsMade(files, "exact.onnx");
    assert.ok(worst(made, right) > 1);
  }
});

test("generator.js refuses latents that no model can take, in a line, and goes on", { skip: ONCE }, async () => {
  const { page } = await open();
  const said = await page.evaluate(async () => {
    const { openGenerator } = await import("/generator.js");
    const { LARGEST_LATENT } = await import("/latents.js");
    const generator = await openGenerator();
    const label = generator.labelsOf(0n, 0, 1);
    const answers = [];
    for (const value of [3e38, -LARGEST_LATENT * 1.001, NaN, -LARGEST_LATENT]) {
      const z = new Float32Array(generator.latentDim);
      z[1] = value;
      answers.push(await generator.images(z, label).then((image) => image.length, (error) => `${error.name}: ${error.message}`));
    }
    return answers;
  });
  for (const [i, value] of [[0, "3\\S+e\\+38|2\\.99\\S+e\\+38"], [1, "-100\\.\\d+"], [2, "NaN"]]) {
    assert.match(said[i], new RegExp(`^RangeError: a latent holds numbers from -100 to 100, drawn from N\\(0, 1\\); found (${value}) at 1$`));
  }
  assert.equal(said[3], size);
  await page.close();
});

test("the seed: typed, stepped, drawn, from a link, and refused", { skip: ONCE }, async () => {
  const { page, problems } = await open();
  const seven = vectors("7");
  await page.fill("#seed", "7");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => location.hash === "#seed=7");
  await settle(page);
  assert.ok(meanDifference(await pictureOf(page, "#grid canvas"), seven[0]) < 2);
  for (const [wrong, status] of [["-1", "true"], ["9223372036854775808", "true"], ["seven", "true"], ["7", null]]) {
    await page.fill("#seed", wrong);
    await page.keyboard.press("Enter");
    assert.equal(await page.getAttribute("#seed", "aria-invalid"), status, wrong);
    assert.equal(/whole number/.test(await page.textContent("#problem")), status === "true", wrong);
  }
  await page.click("#next");
  assert.equal(await page.inputValue("#seed"), "8");
  await page.fill("#seed", "0");
  await page.keyboard.press("Enter");
  await page.click("#previous");
  assert.equal(await page.inputValue("#seed"), "9223372036854775807");
  await page.click("#random");
  assert.notEqual(await page.inputValue("#seed"), "9223372036854775807");
  const third = classesOf(spec)[3];
  await page.evaluate((name) => (location.hash = `#seed=7&class=${encodeURIComponent(name)}`), third);
  await page.waitForFunction(() => document.querySelector("#classes :checked").value === "3");
  assert.equal(await page.inputValue("#seed"), "7");
  await page.evaluate(() => (location.hash = "#seed=seven"));
  await page.waitForFunction(() => /whole number/.test(document.getElementById("problem").textContent));
  assert.equal(await page.inputValue("#seed"), "0");
  await page.evaluate(() => (location.hash = "#class=unheard%20of"));
  await page.waitForFunction(() => /found unheard of/.test(document.getElementById("problem").textContent));
  assert.deepEqual(problems, []);
  await page.close();
});

/** All that an address holds, as the page shows it. */
const seen = async (page) => {
  await page.waitForFunction(() => !document.getElementById("save-grid").disabled);
  await settle(page);
  return {
    seed: await page.inputValue("#seed"),
    chosen: await page.textContent("#chosen"),
    text: await page.inputValue("#text"),
    first: await pictureOf(page, "#grid canvas"),
    stage: await pictureOf(page, "#stage"),
    written: await written(page),
  };
};

test("an address brings all of it back: in a copied link, after a reload, and by back and forward", { skip: ONCE }, async () => {
  const [name, letter] = [classesOf(spec)[3], classesOf(spec).find((each) => /^[\p{L}\p{N}]$/u.test(each))];
  const { page, problems } = await open({ hash: "#seed=7", permissions: ["clipboard-read", "clipboard-write"] });
  const steps = [await seen(page)];
  await page.click('#classes label:has(input[value="3"])');
  steps.push(await seen(page));
  await page.click("#grid button:nth-child(5)");
  await page.focus("#pad");
  for (const key of ["ArrowRight", "ArrowRight", "ArrowUp"]) await page.keyboard.press(key);
  await page.fill("#text", `${letter} ${letter}`);
  await page.click("#copy");
  await page.waitForFunction(() => document.getElementById("copied").textContent === "Copied");
  const link = await page.evaluate(() => navigator.clipboard.readText());
  assert.equal(link, `${server.url}#seed=7&class=${encodeURIComponent(name)}&image=4&x=0.1&y=-0.05&text=${letter}%20${letter}`);
  steps.push(await seen(page));
  const other = await open({ hash: new URL(link).hash });
  assert.deepEqual(await seen(other.page), steps[2], "a copied link");
  await other.page.close();
  await page.reload();
  await page.waitForFunction(() => /ms per/.test(document.getElementById("status").textContent));
  assert.deepEqual(await seen(page), steps[2], "a reload");
  for (const [way, at] of [["goBack", 1], ["goBack", 0], ["goForward", 1], ["goForward", 2]]) {
    const before = page.url();
    await page[way]();
    await page.waitForFunction((url) => location.href !== url, before);
    assert.deepEqual(await seen(page), steps[at], `${way} to step ${at}`);
  }
  steps.forEach((step, i) => i && assert.notDeepEqual(step.stage, steps[i - 1].stage));
  await page.fill("#text", letter.repeat(2));
  await page.waitForFunction((text) => location.hash.endsWith(`&text=${text}`), letter.repeat(2)); // without another touch
  assert.deepEqual(problems, []);
  await page.close();
});

test("what an address says and can't mean is left out, and said in one line", { skip: ONCE }, async () => {
  const { page, problems } = await open({ hash: `#seed=-7&class=unheard%20of&image=1.5&x=2&y=0.5&text=${"1".repeat(41)}&from=elsewhere` });
  const said = await page.textContent("#problem");
  assert.match(said, /^Not taken from the address: seed=-7 \(a seed is .*\), class=unheard of \(.*\), image=1\.5 \(.*\), x=2 \(.*\), text=1+ \(.*40 characters\)\.$/);
  const bare = await open({ hash: "#y=0.5" });
  assert.deepEqual(await seen(page), await seen(bare.page), "the rest is taken");
  assert.equal(await bare.page.textContent("#problem"), "");
  await page.click("#next");
  assert.equal(await page.textContent("#problem"), "");
  assert.deepEqual(problems, []);
  await Promise.all([page, bare.page].map((each) => each.close()));
});

test("an image that the grid is too small for can be in an address; there is a link to copy on plain http too", { skip: ONCE }, async () => {
  const at = { url: server.url.replace("127.0.0.1", OTHER_HOST) };
  const { page, problems } = await open({ at, hash: "#seed=7&image=4000" });
  assert.equal(await page.evaluate(() => window.isSecureContext), false);
  assert.equal(await page.textContent("#chosen"), "4000");
  assert.equal(await page.locator('#grid button[tabindex="0"]').count(), 1);
  await page.click("#copy");
  await page.waitForFunction(() => document.getElementById("copied").textContent === "Copied");
  await page.focus("#text");
  await page.keyboard.press("Control+V");
  assert.ok(`${at.url}#seed=7&image=4000`.startsWith(await page.inputValue("#text")));
  assert.notEqual(await page.inputValue("#text"), "");
  assert.deepEqual(problems, []);
  await page.close();
});

test("classes have buttons with their names, and the one that is chosen is made", async () => {
  const { page, problems } = await open({ hash: "#seed=9223372036854775807" });
  const names = classesOf(spec);
  assert.deepEqual(await page.locator("#classes label").allTextContents(), ["any", ...names]);
  const right = vectors("9223372036854775807"); // all of them of one class
  const { cases } = JSON.parse(readFileSync(`${VECTORS}/index.json`, "utf8"));
  const [wanted] = cases.find((entry) => entry.seed === "9223372036854775807").asked;
  await page.click(`#classes label:has(input[value="${wanted}"])`);
  await page.waitForFunction((name) => location.hash.endsWith(`&class=${encodeURIComponent(name)}`), names[wanted]);
  await page.waitForFunction((name) => document.querySelector("#grid button").ariaLabel === `Image 0: ${name}`, names[wanted]);
  await settle(page);
  const images = await gridOf(page, right.length);
  images.forEach((image, i) => assert.ok(meanDifference(image, right[i]) < 2, `image ${i} is another one`));
  assert.deepEqual(problems, []);
  await page.close();
});

test("dragging and the arrow keys change the picture, Home brings it back", async () => {
  const { page, problems } = await open({ hash: "#seed=7" });
  const middle = await pictureOf(page, "#stage");
  assert.deepEqual(middle, await pictureOf(page, "#grid canvas"), "the middle of the pad is the chosen image");
  const box = await page.locator("#pad").boundingBox();
  const at = (x, y) => [box.x + box.width * x, box.y + box.height * y];
  await page.evaluate(() => {
    window.frames = 0;
    const put = CanvasRenderingContext2D.prototype.putImageData;
    CanvasRenderingContext2D.prototype.putImageData = function (...rest) {
      if (this.canvas.id === "stage") window.frames += 1;
      return put.apply(this, rest);
    };
  });
  await page.mouse.move(...at(0.5, 0.5));
  await page.mouse.down();
  const began = Date.now();
  for (let step = 0; Date.now() - began < 2000; step += 1) {
    await page.mouse.move(...at(0.5 + 0.45 * Math.sin(step / 20), 0.5 + 0.45 * Math.sin(step / 13)));
  }
  const frames = await page.evaluate(() => window.frames);
  const rate = frames / ((Date.now() - began) / 1000);
  console.log(`${rate.toFixed(0)} frames a second while dragging`);
  assert.ok(rate > 2, `only ${rate} frames a second`);
  await page.mouse.move(...at(0.95, 0.2));
  await page.mouse.up();
  await settle(page);
  const dragged = await pictureOf(page, "#stage");
  assert.ok(meanDifference(dragged, middle) > 1, "a drag changes the image");
  await page.keyboard.press("ArrowLeft");
  await settle(page);
  assert.notDeepEqual(await pictureOf(page, "#stage"), dragged, "an arrow key changes the image");
  await page.keyboard.press("Home");
  await settle(page);
  assert.deepEqual(await pictureOf(page, "#stage"), middle, "Home goes back");
  assert.deepEqual(problems, []);
  await page.close();
});

test("an image of the grid is chosen by mouse and by keyboard", { skip: ONCE }, async () => {
  const { page, problems } = await open({ hash: "#seed=7" });
  await page.click("#grid button:nth-child(3)");
  await settle(page);
  assert.deepEqual(await pictureOf(page, "#stage"), await pictureOf(page, "#grid canvas", 2));
  await page.keyboard.press("ArrowRight");
  await settle(page);
  assert.equal(await page.textContent("#chosen"), "3");
  assert.deepEqual(await pictureOf(page, "#stage"), await pictureOf(page, "#grid canvas", 3));
  assert.equal(await page.locator('#grid button[tabindex="0"]').count(), 1, "one stop of the Tab key");
  assert.deepEqual(problems, []);
  await page.close();
});

test("a walk moves, and pauses", { skip: ONCE }, async () => {
  const { page, problems } = await open({ hash: "#seed=7" });
  await page.click("#walk");
  await page.waitForFunction(() => /\d+ to/.test(document.getElementById("place").textContent));
  const here = await pictureOf(page, "#stage");
  await page.waitForTimeout(400);
  assert.notDeepEqual(await pictureOf(page, "#stage"), here, "it moves");
  await page.click("#walk");
  await settle(page);
  const paused = await pictureOf(page, "#stage");
  await settle(page);
  assert.deepEqual(await pictureOf(page, "#stage"), paused, "it pauses");
  await page.click("#grid button:nth-child(6)");
  await page.click("#walk");
  await page.waitForFunction(() => / 5 to/.test(document.getElementById("place").textContent));
  await page.waitForFunction(() => !/ 5 to/.test(document.getElementById("place").textContent));
  await page.click("#walk");
  await page.click("#walk");
  await settle(page);
  assert.doesNotMatch(await page.textContent("#place"), / 5 to/, "it goes on from where it paused");
  assert.deepEqual(problems, []);
  await page.close();
});

test("what is saved looks as on the page, in the light and in the dark", async () => {
  const name = classesOf(spec)[3];
  const letter = classesOf(spec).find((each) => /^[\p{L}\p{N}]$/u.test(each));
  const [channels, height, width] = spec.image_shape;
  const scale = Math.ceil(SCALE / Math.max(width, height));
  const start = `${about.name}-seed-7-${name.replaceAll(/[^\p{L}\p{N}]+/gu, "_")}`;
  for (const colorScheme of ["light", "dark"]) {
    const { page, problems } = await open({ hash: `#seed=7&class=${encodeURIComponent(name)}&text=${letter}-${letter}`, colorScheme });
    const count = await page.locator("#grid button").count();
    const columns = Number(await page.evaluate(() => document.getElementById("grid").style.getPropertyValue("--columns")));
    const paper = await page.evaluate(() => getComputedStyle(document.querySelector(".card")).backgroundColor.match(/\d+/g).map(Number));
    const tone = colorScheme === "dark" ? 255 : 0;
    const inked = Boolean(about.ink) && channels === 1;
    const coloursOf = (picture) =>
      inked
        ? picture.flatMap((level) => paper.map((colour) => (level * tone + (255 - level) * colour) / 255))
        : channels === 3 ? picture : picture.flatMap((level) => [level, level, level]);
    const save = async (button, file) => {
      const [download] = await Promise.all([page.waitForEvent("download"), page.click(button)]);
      assert.equal(download.suggestedFilename(), file);
      if (DOWNLOADS && colorScheme === "light") await download.saveAs(join(DOWNLOADS, `${button.slice(1)}.png`));
      return readFileSync(await download.path()).toString("base64");
    };
    for (const [button, file, size] of [
      ["#save-grid", `${start}.png`, [columns, Math.ceil(count / columns)]],
      ["#save-one", `${start}-around-0.png`, [1, 1]],
      ["#save-text", `${start}-text-${letter}_${letter}.png`, [3, 1]],
    ]) {
      const png = await save(button, file);
      // One pixel of each square that a pixel became.
      const [across, down, colours] = await page.evaluate(async ([data, side]) => {
        const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
        const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
        const canvas = new OffscreenCanvas(image.width, image.height);
        canvas.getContext("2d").drawImage(image, 0, 0);
        const pixels = canvas.getContext("2d").getImageData(0, 0, image.width, image.height).data;
        const [columnsOf, rowsOf] = [image.width / side, image.height / side];
        const middle = Math.floor(side / 2);
        const at = (i) => (Math.floor(i / columnsOf) * side + middle) * image.width + (i % columnsOf) * side + middle;
        return [columnsOf, rowsOf, Array.from({ length: columnsOf * rowsOf }, (_, i) => [...pixels.slice(4 * at(i), 4 * at(i) + 3)])];
      }, [png, scale]);
      assert.deepEqual([across, down], [size[0] * width, size[1] * height], button);
      const cell = (left, top) =>
        Array.from({ length: width * height }, (_, i) => colours[(top * height + Math.floor(i / width)) * across + left * width + (i % width)]).flat();
      const places = {
        "#save-grid": [0, 9, count - 1].map((i) => [[i % columns, Math.floor(i / columns)], "#grid canvas", i]),
        "#save-one": [[[0, 0], "#stage", 0]],
        "#save-text": [[[0, 0], "#sheet canvas", 0], [[2, 0], "#sheet canvas", 2]],
      }[button];
      for (const [place, selector, i] of places) {
        const [found, expected] = [cell(...place), coloursOf(await pictureOf(page, selector, i))];
        assert.ok(worst(found, expected) <= 1, `${colorScheme}, ${button}, ${selector} ${i}: off by ${worst(found, expected)}`);
      }
      if (button === "#save-text") assert.deepEqual(cell(1, 0), Array.from({ length: width * height }, () => paper).flat(), "an empty place is paper");
    }
    if (colorScheme === "light") {
      const png = await save("#save-walk", `${start}-walk-from-0.png`);
      const frames = await page.evaluate(async (data) => {
        const decoder = new ImageDecoder({ data: Uint8Array.from(atob(data), (character) => character.charCodeAt(0)), type: "image/png" });
        await decoder.tracks.ready;
        return decoder.tracks.selectedTrack.frameCount;
      }, png);
      assert.ok(frames >= 64, `a walk that moves, found ${frames} frames`);
    }
    assert.deepEqual(problems, []);
    await page.close();
  }
});

/** The pictures at the places of the written text, as the model gave them; undefined where a place is empty. */
async function written(page) {
  const pictures = [];
  for (let i = 0; i < (await page.locator("#sheet canvas").count()); i += 1) {
    const isEmpty = await page.evaluate((at) => {
      const canvas = document.querySelectorAll("#sheet canvas")[at];
      return !canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean);
    }, i);
    pictures.push(isEmpty ? undefined : await pictureOf(page, "#sheet canvas", i));
  }
  return pictures;
}

test("a text is written: a letter is an image of the class that it names, each the seed's next; all else leaves a place empty", async () => {
  const { page, problems } = await open({ hash: "#seed=7" });
  const names = classesOf(spec);
  const letters = names.filter((name) => /^[\p{L}\p{N}]$/u.test(name));
  const imageOf = (seed, index, label) =>
    page.evaluate(async (asked) => {
      const { openGenerator } = await import("/generator.js");
      window.ours ??= await openGenerator();
      return [...(await window.ours.imagesOf(...asked))];
    }, [seed, index, 1, names.indexOf(label)]);
  const write = async (text) => {
    await page.fill("#text", text);
    await page.waitForFunction((label) => document.getElementById("sheet").ariaLabel === label, `${text}, written by the model`);
  };
  const [first, last] = [letters[0], letters.at(-1)];
  const texts = [[`${last}- ${first}`, [last, , , first]]];
  if (letters.length === 10) texts.push(["3-1 ４", ["3", , "1", , "4"]]);  // full-width digits are digits
  for (const [text, places] of texts) {
    await write(text);
    const found = await written(page);
    assert.deepEqual(Array.from(found, Boolean), Array.from(places, Boolean), text);
    const called = places.filter(Boolean);
    for (const [k, image] of found.filter(Boolean).entries()) assert.deepEqual(image, await imageOf("7", k, called[k]), `letter ${k} of ${text}`);
  }
  for (const unknown of ["a", "²", "½"]) {
    await write(`${first}${unknown}`);
    assert.equal(await page.textContent("#text-problem"), `It has no ${unknown}: the model writes ${letters.join(" ")}.`);
  }
  await write(first);
  assert.equal(await page.isVisible("#text-problem"), false);
  await page.click("#another");
  await page.waitForFunction(() => document.getElementById("seed").value === "8" && !document.getElementById("save-grid").disabled);
  assert.deepEqual(await written(page), [await imageOf("8", 0, first)], "another hand is the next seed");
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save-text")]);
  assert.equal(download.suggestedFilename(), `${about.name}-seed-8-text-${first}.png`);
  await page.fill("#text", "");
  await page.waitForFunction(() => document.getElementById("sheet").ariaLabel.startsWith(document.getElementById("text").placeholder));
  if (letters.length === 10) assert.match(await page.getAttribute("#text", "placeholder"), /^\d{4}-\d\d-\d\d$/, "an example: the date");
  assert.deepEqual(problems, []);
  await page.close();
});

/** The colours of an element's pixels on the screen, at points of it, each from 0 to 1 across and down. */
async function screenOf(page, selector, points) {
  const png = (await page.locator(selector).screenshot()).toString("base64");
  return page.evaluate(async ([data, at]) => {
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
    const canvas = new OffscreenCanvas(image.width, image.height);
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    return at.map(([x, y]) => [...context.getImageData(Math.floor(x * image.width), Math.floor(y * image.height), 1, 1).data.slice(0, 3)]);
  }, [png, points]);
}

test("on the screen, in the light and in the dark, are the colours of the model; only ink is of the page", async () => {
  const [channels, height, width] = spec.image_shape;
  for (const colorScheme of ["light", "dark"]) {
    const { page } = await open({ hash: "#seed=7", colorScheme });
    const right = vectors("7")[0];
    const inked = Boolean(about.ink) && channels === 1;
    const paper = await page.evaluate(() => getComputedStyle(document.querySelector(".card")).backgroundColor.match(/\d+/g).map(Number));
    const pixels = Array.from({ length: 40 }, (_, i) => [Math.floor(((i * 7 + 3) % 40) * (width / 40)), Math.floor(i * (height / 40))]);
    const found = await screenOf(page, "#stage", pixels.map(([x, y]) => [(x + 0.5) / width, (y + 0.5) / height]));
    const expected = pixels.map(([x, y]) => {
      const from = (y * width + x) * channels;
      const levels = channels === 3 ? right.slice(from, from + 3) : [right[from], right[from], right[from]];
      const tone = colorScheme === "dark" ? 255 : 0;
      return inked ? levels.map((level, c) => (level * tone + (255 - level) * paper[c]) / 255) : levels;
    });
    // The rounded corners of the card, and levels of 8 bits or between pixels, leave a little.
    const off = meanDifference(found.flat(), expected.flat());
    assert.ok(off < 8, `${colorScheme}: off by ${off} on average`);
    await page.close();
  }
});

test("the words are those of model.json", async () => {
  const own = { ...about, title: "Clouds", noun: "cloud" };
  const silent = { ...about, title: undefined, noun: undefined };
  for (const [site, title, legend, said] of [
    [own, "Clouds", "Cloud", "ms per cloud"],
    [silent, "Images that nobody made", "Class", "ms per image"],
  ]) {
    const page = await browser.newPage();
    page.setDefaultTimeout(LIMIT);
    await page.route("**/model.json", (route) => route.fulfill({ json: site }));
    await page.goto(server.url);
    await page.waitForFunction((text) => document.getElementById("status").textContent.includes(text), said);
    assert.deepEqual([await page.title(), await page.textContent("h1"), await page.textContent("legend")], [title, title, legend]);
    await page.close();
  }
});

test("a phone has no sideways scroll, and a finger drags", async () => {
  const { page, problems } = await open({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
  for (const hint of await page.locator(".hint").allInnerTexts()) assert.match(hint, /^(?!.*(Home|keys)).*[tT]ap/s);
  const isSeen = () => page.evaluate(() => document.getElementById("stage").getBoundingClientRect().top < window.innerHeight);
  await page.evaluate(() => window.scrollTo(0, 0));
  assert.equal(await isSeen(), false);
  await page.locator("#grid button:nth-child(3)").tap();
  await page.waitForFunction(() => {
    const { top, bottom } = document.getElementById("stage").getBoundingClientRect();
    return top >= 0 && bottom <= window.innerHeight;
  });
  assert.equal(await page.textContent("#chosen"), "2", "the image that is chosen is scrolled to");
  await settle(page);
  const before = await pictureOf(page, "#stage");
  await page.locator("#pad").scrollIntoViewIfNeeded();
  const box = await page.locator("#pad").boundingBox();
  await page.touchscreen.tap(box.x + box.width * 0.9, box.y + box.height * 0.8);
  await settle(page);
  assert.notDeepEqual(await pictureOf(page, "#stage"), before);
  assert.deepEqual(problems, []);
  await page.close();
});

/** Roles of what is used or looked at, in Chromium's accessibility tree. */
const CONTROLS = /^(button|checkbox|combobox|image|listbox|option|radio|radiogroup|slider|textbox|application|group)$/;

async function nameless(page) {
  const session = await page.context().newCDPSession(page);
  const { nodes } = await session.send("Accessibility.getFullAXTree");
  const controls = nodes.filter(({ ignored, role }) => !ignored && CONTROLS.test(role?.value));
  assert.ok(controls.length > 50, "the tree has the page in it");
  return controls.filter(({ name }) => !name?.value).map(({ role }) => role.value);
}

/** Texts whose contrast is too low, by WCAG 2.2, 1.4.3: 4.5 to 1. What fills a box without a colour of its own is behind it. */
const pale = (page) =>
  page.evaluate(() => {
    const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const over = (colours) => {
      context.clearRect(0, 0, 1, 1);
      for (const colour of colours) {
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
      }
      return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
    };
    const light = (rgb) => rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    const luminance = (rgb) => light(rgb).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const found = [];
    for (const element of document.querySelectorAll("body, body *")) {
      const own = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.textContent.trim()).join("");
      const texts = [[own, undefined], [element.value, undefined], [element.value ? "" : element.placeholder, "::placeholder"]];
      for (const [text, part] of texts) {
        if (!text || /^(radio|checkbox|range)$/.test(element.type) || !element.checkVisibility({ visibilityProperty: true })) continue;
        const behind = [];
        for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
        const { color } = getComputedStyle(element, part);
        const [one, two] = [over(behind), over([...behind, color])].map(luminance);
        const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
        if (ratio < 4.5) found.push(`${text.slice(0, 30)}: ${ratio.toFixed(2)}`);
      }
    }
    return found;
  });

test("every control has a name, and every text its contrast, in the light and in the dark", { skip: ONCE }, async () => {
  for (const colorScheme of ["light", "dark"]) {
    const { page } = await open({ hash: "#seed=none", colorScheme }); // with a message, which has a colour of its own
    await page.fill("#text", "~");
    await page.click("#copy");
    await page.waitForFunction(() => document.getElementById("copied").textContent);
    assert.deepEqual([await nameless(page), await pale(page)], [[], []], colorScheme);
    await page.evaluate(() => {
      document.getElementById("next").removeAttribute("aria-label");
      document.getElementById("next").textContent = "";
      document.documentElement.style.setProperty("--soft", "#888");
    });
    assert.deepEqual(await nameless(page), ["button"], "one without a name is noticed");
    if (colorScheme === "light") assert.notDeepEqual(await pale(page), [], "and a pale one");
    await page.close();
  }
});

test("all of it is reached and used with the keyboard alone, and where one is can be seen", { skip: ONCE }, async () => {
  const { page, problems } = await open({ hash: "#seed=7" });
  const here = () =>
    page.evaluate(() => {
      const at = document.activeElement;
      const outlined = [at, at.closest("label")].some((each) => each && getComputedStyle(each).outlineStyle !== "none");
      return { id: at.id || at.closest("[id]")?.id || at.tagName, outlined };
    });
  const stops = [];
  for (await page.keyboard.press("Tab"); (await here()).id !== "BODY" && stops.length < 40; await page.keyboard.press("Tab")) stops.push(await here());
  assert.deepEqual(stops.filter(({ outlined }) => !outlined), []);
  const expected = ["previous", "seed", "next", "random", "copy", "classes", "save-text", "text", "another", "save-grid", "grid", "save-one", "pad", "walk", "save-walk", "speed"];
  assert.deepEqual(stops.map(({ id }) => id), expected);
  const tabTo = async (id) => {
    for (let i = 0; (await here()).id !== id; i += 1) {
      assert.ok(i < 40, `${id} is not reached`);
      await page.keyboard.press("Tab");
    }
  };
  const changes = async (selector, id, ...keys) => {
    await tabTo(id);
    await settle(page);
    const before = await pictureOf(page, selector);
    for (const key of keys) await page.keyboard.press(key);
    await settle(page);
    await page.waitForFunction(() => !document.getElementById("save-grid").disabled);
    assert.notDeepEqual(await pictureOf(page, selector), before, `${keys} at ${id}`);
  };
  await changes("#grid canvas", "seed", "8", "Enter"); // after the 7: 78
  await changes("#grid canvas", "next", "Space");
  await changes("#grid canvas", "classes", "ArrowDown");
  await changes("#sheet canvas", "another", "Enter");
  await changes("#stage", "grid", "ArrowRight");
  await changes("#stage", "pad", "ArrowRight", "ArrowDown");
  await changes("#stage", "walk", "Space");
  await tabTo("save-one");
  await Promise.all([page.waitForEvent("download"), page.keyboard.press("Enter")]);
  assert.deepEqual(problems, []);
  await page.close();
});

test("with the headers of cross-origin isolation it takes threads, and makes the same images", { skip: ONCE }, async () => {
  const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
  const isolated = await serve(SITE, { headers });
  const { page, problems } = await open({ at: isolated, hash: "#seed=7" });
  const cores = await page.evaluate(() => navigator.hardwareConcurrency);
  assert.match(await page.textContent("#status"), new RegExp(`${Math.min(4, cores)} thread`));
  for (const [i, right] of vectors("7").entries()) assert.ok(meanDifference(await pictureOf(page, "#grid canvas", i), right) < 2);
  assert.deepEqual(problems, []);
  await page.close();
  isolated.close();
});

test("without WebGPU there is no switch; where it fails, the page says so and stays with WebAssembly", { skip: ONCE }, async () => {
  const broken = await serve(SITE, { missing: ["/runtime/ort.jspi.min.js"] });
  const { page } = await open({ at: broken });
  assert.equal(await page.isVisible("#gpu"), false);
  await page.evaluate(() => document.getElementById("gpu").click());
  await page.waitForFunction(() => /does not work/.test(document.getElementById("status").textContent));
  assert.match(await page.textContent("#status.failed"), /does not give \S+\/runtime\/ort\.jspi\.min\.js \(status 404,/);
  assert.equal(await page.isChecked("#gpu"), false);
  await page.click("#next");
  await page.waitForFunction(() => location.hash === "#seed=1");
  await settle(page);
  assert.deepEqual(await pictureOf(page, "#stage"), await pictureOf(page, "#grid canvas"), "and goes on making images");
  await page.close();
  broken.close();
});

/** The page with another model in the place of its own. */
async function withModel(file, check) {
  const other = await serve(SITE, { files: { "/model.onnx": file } });
  const page = await browser.newPage();
  page.setDefaultTimeout(LIMIT);
  try {
    await page.goto(other.url);
    await page.waitForFunction(() => /ms per|does not work/.test(document.getElementById("status").textContent));
    await check(page);
  } finally {
    await page.close();
    other.close(); // or this process never ends
  }
}

test("a model without classes has none to choose", { skip: UNCONDITIONAL ? false : "no UNCONDITIONAL" }, () =>
  withModel(UNCONDITIONAL, async (page) => {
    assert.match(await page.textContent("#status"), /ms per/);
    assert.equal(await page.isVisible("#classes"), false);
    assert.equal(await page.getAttribute("#grid button", "aria-label"), "Image 0");
    assert.equal(await page.isVisible("#text"), false, "nor letters to write with");
  }));

test("a thousand classes stand in a menu; a latent of one number has a pad too", { skip: MANY ? false : "no MANY" }, () =>
  withModel(MANY, async (page) => {
    assert.match(await page.textContent("#status"), /ms per/);
    assert.equal(await page.locator("#classes option").count(), 1001);
    assert.equal(await page.isVisible("#text"), false, "names of many letters call for no letter");
    const [, name] = classesOf(specOf(readFileSync(MANY)));
    await page.selectOption("#classes select", { label: name });
    await page.waitForFunction((text) => document.querySelector("#grid button").ariaLabel === `Image 0: ${text}`, name);
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth));
    await settle(page);
    const { image_shape } = specOf(readFileSync(MANY));
    const shown = (selector) => page.evaluate((chosen) => {
      const canvas = document.querySelector(chosen);
      return [canvas.width, canvas.height, ...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
    }, selector);
    const stage = await shown("#stage");
    assert.deepEqual(stage.slice(0, 2), [image_shape[2], image_shape[1]]);
    assert.deepEqual(stage, await shown("#grid canvas"), "the middle of the pad is the chosen image");
    await page.focus("#pad");
    await page.keyboard.press("ArrowRight");
    await settle(page);
    assert.notDeepEqual(await shown("#stage"), stage);
  }));

test("what the page can't draw is said in a line", { skip: FOUR_CHANNELS ? false : "no FOUR_CHANNELS" }, async () => {
  await withModel(FOUR_CHANNELS, async (page) => assert.match(await page.textContent("#status.failed"), /have 4 channels/));
  await withModel(`${SITE}/runtime/ort-wasm-simd-threaded.wasm`, async (page) => assert.match(await page.textContent("#status.failed"), /no dcgan\.spec/));
});
