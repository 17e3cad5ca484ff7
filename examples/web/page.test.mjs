// The page in Chromium, as people use it: SITE=site VECTORS=../vectors/dcgan-mnist-conditional node --test page.test.mjs
//
// What more may be given: UNCONDITIONAL, a model without classes for the page to show; EXACT, the site's model in fp32 with
// grey levels; EXPECTED, bytes: what onnxruntime makes of the site's model and the vectors' latents, case by case;
// SCREENSHOT, where to put one.

import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { launch, serve } from "./browser.mjs";

const { SITE = "site", VECTORS = "../vectors/dcgan-mnist-conditional", UNCONDITIONAL, EXACT, EXPECTED, SCREENSHOT } = process.env;
const SIZE = 28;
const LIMIT = 60_000; // milliseconds, of anything; far more than it takes on an idle machine
let browser;
let server;

before(async () => {
  if (!existsSync(`${SITE}/model.json`)) throw new Error(`SITE=${SITE} is no site; make one: dcgan-export --target web --out ${SITE}`);
  browser = await launch();
  server = await serve(SITE);
});

after(async () => {
  await browser?.close();
  server?.close();
});

/** Open the page and wait until it is ready, or has failed. `problems` are what its console said, and who else it asked. */
async function open({ at = server, hash = "", ...options } = {}) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 860 }, acceptDownloads: true, ...options });
  page.setDefaultTimeout(LIMIT);
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => {
    // The second is Chromium's word on navigator.gpu, the third on how this test reads canvases.
    const quiet = message.type() === "log" || /^No available adapters|^Canvas2D: Multiple readback/.test(message.text());
    if (!quiet) problems.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(at.url) && !/^(blob|data):/.test(request.url())) problems.push(request.url());
  });
  await page.goto(at.url + hash);
  await page.waitForFunction(() => /ms a digit|does not work/.test(document.getElementById("status").textContent));
  return { page, problems };
}

/** What a canvas shows, as one number for each pixel: the strength of the ink. */
const inkOf = (page, selector, index = 0) =>
  page.evaluate(
    ([chosen, at]) => {
      const canvas = document.querySelectorAll(chosen)[at];
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return Array.from({ length: data.length / 4 }, (_, i) => data[4 * i + 3]);
    },
    [selector, index],
  );

const gridOf = async (page, count) => {
  const images = [];
  for (let i = 0; i < count; i += 1) images.push(await inkOf(page, "#grid canvas", i));
  return images;
};

const meanDifference = (a, b) => a.reduce((sum, value, i) => sum + Math.abs(value - b[i]), 0) / a.length;

/** The images of a test vector, exact to a grey level; the page's model has 8 bits and is half a level off on average. */
function vectors(seed) {
  const index = JSON.parse(readFileSync(`${VECTORS}/index.json`, "utf8"));
  const found = index.cases.find((entry) => entry.seed === seed);
  const levels = readFileSync(`${VECTORS}/${found.image_uint8.file}`);
  return Array.from({ length: found.n }, (_, i) => [...levels.subarray(i * SIZE * SIZE, (i + 1) * SIZE * SIZE)]);
}

const settle = (page) => page.waitForTimeout(150); // a run takes some milliseconds

test("the digits of a seed are those of the test vectors", async () => {
  const { page, problems } = await open({ hash: "#seed=7" });
  const right = vectors("7");
  const images = await gridOf(page, right.length);
  images.forEach((image, i) => assert.ok(meanDifference(image, right[i]) < 2, `image ${i} is another one`));
  assert.ok(meanDifference(images[0], right[1]) > 10, "other digits would be told apart");
  if (SCREENSHOT) await page.screenshot({ path: SCREENSHOT });
  const first = await page.evaluate(() => performance.getEntriesByName("first-digit")[0].startTime);
  console.log(`first digit after ${Math.round(first)} ms`);
  assert.deepEqual(problems, []);
  await page.close();
});

/** Run in the page: all cases of the test vectors, by the site's generator.js; grey levels, one after the other. */
async function runCases({ file, cases }) {
  const { openGenerator } = await import("/generator.js");
  const { latents } = await import("/latents.js");
  const generator = await openGenerator("wasm", file);
  const made = [];
  for (const { seed, n, asked } of cases) {
    const own = generator.labelsOf(seed, 0, n);
    const label = own.map((drawn, i) => (asked.length && asked[i % asked.length] >= 0 ? BigInt(asked[i % asked.length]) : drawn));
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

test("the seed: typed, stepped, drawn, from a link, and refused", async () => {
  const { page, problems } = await open();
  const seven = vectors("7");
  await page.fill("#seed", "7");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => location.hash === "#seed=7");
  await settle(page);
  assert.ok(meanDifference(await inkOf(page, "#grid canvas"), seven[0]) < 2);
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
  await page.evaluate(() => (location.hash = "#seed=7&digit=3"));
  await page.waitForFunction(() => document.querySelector("#digits :checked").value === "3");
  assert.equal(await page.inputValue("#seed"), "7");
  await page.evaluate(() => (location.hash = "#seed=seven"));
  await page.waitForFunction(() => /whole number/.test(document.getElementById("problem").textContent));
  assert.equal(await page.inputValue("#seed"), "0");
  assert.deepEqual(problems, []);
  await page.close();
});

test("the digit that is chosen is made", async () => {
  const { page, problems } = await open({ hash: "#seed=9223372036854775807" });
  const right = vectors("9223372036854775807"); // all of them fives
  await page.click('#digits label:has(input[value="5"])');
  await page.waitForFunction(() => location.hash.endsWith("&digit=5"));
  await page.waitForFunction(() => document.querySelector("#grid button").ariaLabel === "Image 0, a 5");
  await settle(page);
  const images = await gridOf(page, right.length);
  images.forEach((image, i) => assert.ok(meanDifference(image, right[i]) < 2, `image ${i} is another one`));
  assert.deepEqual(problems, []);
  await page.close();
});

test("dragging and the arrow keys change the picture, Home brings it back", async () => {
  const { page, problems } = await open({ hash: "#seed=7" });
  const middle = await inkOf(page, "#stage");
  assert.deepEqual(middle, await inkOf(page, "#grid canvas"), "the middle of the pad is the chosen digit");
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
  assert.ok(rate > 10, `only ${rate} frames a second`);
  await page.mouse.move(...at(0.95, 0.2));
  await page.mouse.up();
  await settle(page);
  const dragged = await inkOf(page, "#stage");
  assert.ok(meanDifference(dragged, middle) > 1, "a drag changes the digit");
  await page.keyboard.press("ArrowLeft");
  await settle(page);
  assert.notDeepEqual(await inkOf(page, "#stage"), dragged, "an arrow key changes the digit");
  await page.keyboard.press("Home");
  await settle(page);
  assert.deepEqual(await inkOf(page, "#stage"), middle, "Home goes back");
  assert.deepEqual(problems, []);
  await page.close();
});

test("a digit of the grid is chosen by mouse and by keyboard", async () => {
  const { page, problems } = await open({ hash: "#seed=7" });
  await page.click("#grid button:nth-child(3)");
  await settle(page);
  assert.deepEqual(await inkOf(page, "#stage"), await inkOf(page, "#grid canvas", 2));
  await page.keyboard.press("ArrowRight");
  await settle(page);
  assert.equal(await page.textContent("#chosen"), "3");
  assert.deepEqual(await inkOf(page, "#stage"), await inkOf(page, "#grid canvas", 3));
  assert.equal(await page.locator('#grid button[tabindex="0"]').count(), 1, "one stop of the Tab key");
  assert.deepEqual(problems, []);
  await page.close();
});

test("a walk moves, and pauses", async () => {
  const { page, problems } = await open({ hash: "#seed=7" });
  await page.click("#walk");
  await page.waitForFunction(() => /image \d+ to/.test(document.getElementById("place").textContent));
  const here = await inkOf(page, "#stage");
  await page.waitForTimeout(400);
  assert.notDeepEqual(await inkOf(page, "#stage"), here, "it moves");
  await page.click("#walk");
  await settle(page);
  const paused = await inkOf(page, "#stage");
  await settle(page);
  assert.deepEqual(await inkOf(page, "#stage"), paused, "it pauses");
  await page.click("#grid button:nth-child(6)");
  await page.click("#walk");
  await page.waitForFunction(() => /image 5 to/.test(document.getElementById("place").textContent));
  await page.waitForFunction(() => !/image 5 to/.test(document.getElementById("place").textContent));
  await page.click("#walk");
  await page.click("#walk");
  await settle(page);
  assert.doesNotMatch(await page.textContent("#place"), /image 5 to/, "it goes on from where it paused");
  assert.deepEqual(problems, []);
  await page.close();
});

test("what is saved is what is seen", async () => {
  const { page, problems } = await open({ hash: "#seed=7&digit=4" });
  const columns = 8;
  for (const [button, name] of [["#save-grid", "dcgan-mnist-conditional-seed-7-digit-4.png"], ["#save-digit", "dcgan-mnist-conditional-seed-7-digit-4-around-0.png"]]) {
    const [download] = await Promise.all([page.waitForEvent("download"), page.click(button)]);
    assert.equal(download.suggestedFilename(), name);
    const png = readFileSync(await download.path()).toString("base64");
    const scale = 8;
    // One pixel of each square that a pixel became.
    const [width, height, levels] = await page.evaluate(async ([data, side]) => {
      const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
      const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
      const canvas = new OffscreenCanvas(image.width, image.height);
      canvas.getContext("2d").drawImage(image, 0, 0);
      const pixels = canvas.getContext("2d").getImageData(0, 0, image.width, image.height).data;
      const across = image.width / side;
      const at = (i) => (Math.floor(i / across) * side + side / 2) * image.width + (i % across) * side + side / 2;
      return [image.width, image.height, Array.from({ length: (across * image.height) / side }, (_, i) => pixels[4 * at(i)])];
    }, [png, scale]);
    const pixel = (x, y) => levels[(y * width) / scale + x];
    const cell = (left, top) => Array.from({ length: SIZE * SIZE }, (_, i) => pixel(left * SIZE + (i % SIZE), top * SIZE + Math.floor(i / SIZE)));
    if (button === "#save-grid") {
      assert.deepEqual([width, height], [columns * SIZE * scale, 6 * SIZE * scale]);
      for (const i of [0, 9, 47]) assert.deepEqual(cell(i % columns, Math.floor(i / columns)), await inkOf(page, "#grid canvas", i));
    } else {
      assert.deepEqual([width, height], [SIZE * scale, SIZE * scale]);
      assert.deepEqual(cell(0, 0), await inkOf(page, "#stage"));
    }
  }
  assert.deepEqual(problems, []);
  await page.close();
});

test("a phone has no sideways scroll, and a finger drags", async () => {
  const { page, problems } = await open({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
  const before = await inkOf(page, "#stage");
  await page.locator("#pad").scrollIntoViewIfNeeded();
  const box = await page.locator("#pad").boundingBox();
  await page.touchscreen.tap(box.x + box.width * 0.9, box.y + box.height * 0.8);
  await settle(page);
  assert.notDeepEqual(await inkOf(page, "#stage"), before);
  assert.deepEqual(problems, []);
  await page.close();
});

test("with the headers of cross-origin isolation it takes threads, and makes the same digits", async () => {
  const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
  const isolated = await serve(SITE, { headers });
  const { page, problems } = await open({ at: isolated, hash: "#seed=7" });
  const cores = await page.evaluate(() => navigator.hardwareConcurrency);
  assert.match(await page.textContent("#status"), new RegExp(`${Math.min(4, cores)} thread`));
  for (const [i, right] of vectors("7").entries()) assert.ok(meanDifference(await inkOf(page, "#grid canvas", i), right) < 2);
  assert.deepEqual(problems, []);
  await page.close();
  isolated.close();
});

test("without WebGPU there is no switch; where it fails, the page says so and stays with WebAssembly", async () => {
  const broken = await serve(SITE, { missing: ["/runtime/ort.webgpu.min.mjs"] });
  const { page } = await open({ at: broken });
  assert.equal(await page.isVisible("#gpu"), false);
  await page.evaluate(() => document.getElementById("gpu").click());
  await page.waitForFunction(() => /does not work/.test(document.getElementById("status").textContent));
  assert.match(await page.textContent("#status.failed"), /ort.webgpu.min.mjs is missing/);
  assert.equal(await page.isChecked("#gpu"), false);
  await page.click("#next");
  await page.waitForFunction(() => location.hash === "#seed=1");
  await settle(page);
  assert.deepEqual(await inkOf(page, "#stage"), await inkOf(page, "#grid canvas"), "and goes on making digits");
  await page.close();
  broken.close();
});

test("what is missing is said in a line", async () => {
  for (const path of ["/model.onnx", "/model.json", "/runtime/ort.wasm.min.mjs", "/runtime/ort-wasm-simd-threaded.wasm"]) {
    const broken = await serve(SITE, { missing: [path] });
    const { page } = await open({ at: broken });
    const said = await page.textContent("#status.failed");
    assert.match(said, /does not work here: /, path);
    assert.ok(said.includes(path.endsWith(".wasm") ? "wasm" : path.slice(1)), `${path}: ${said}`);
    assert.ok(await page.isHidden("main"), path);
    await page.close();
    broken.close();
  }
});

test("a model without classes has no digits to choose", { skip: UNCONDITIONAL ? false : "no UNCONDITIONAL" }, async () => {
  const site = JSON.parse(readFileSync(`${SITE}/model.json`, "utf8"));
  site.spec.num_classes = 0;
  const plain = await serve(SITE, { files: { "/model.onnx": UNCONDITIONAL } });
  const page = await browser.newPage();
  page.setDefaultTimeout(LIMIT);
  await page.route("**/model.json", (route) => route.fulfill({ json: site }));
  await page.goto(plain.url);
  await page.waitForFunction(() => /ms a digit|does not work/.test(document.getElementById("status").textContent));
  assert.match(await page.textContent("#status"), /ms a digit/);
  assert.equal(await page.isVisible("#digits"), false);
  assert.equal(await page.getAttribute("#grid button", "aria-label"), "Image 0");
  await page.close();
  plain.close();
});
