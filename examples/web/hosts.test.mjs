// What the page says where its host is at fault: SITE=site node --test hosts.test.mjs
//
// SCREENSHOTS may name a folder, which gets a picture of each message.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { after, before, test } from "node:test";
import { OTHER_HOST, closeServers, launch, serve } from "./browser.mjs";

const { SITE = "site", SCREENSHOTS } = process.env;
const LIMIT = 60_000; // milliseconds for anything
const KINDS = ["model.json", "model.onnx", "latents.js", "runtime/ort-wasm-simd-threaded.wasm"];
const NEEDED = [...KINDS, "page.js", "runtime/ort.wasm.min.js", "runtime/ort-wasm-simd-threaded.js"];
let browser;
let pictures = 0;

before(async () => {
  if (!existsSync(`${SITE}/model.json`)) throw new Error(`SITE=${SITE} is no site; make one: dcgan-export --target web --out ${SITE}`);
  browser = await launch();
});

after(async () => {
  await browser?.close();
  closeServers();
});

/** What the page says in the end, on a host that `changes` says; the addresses in it start at the site. */
async function said(changes) {
  const host = changes.url ? { url: changes.url, close: () => {} } : await serve(SITE, changes);
  const page = await browser.newPage();
  page.setDefaultTimeout(LIMIT);
  try {
    await page.goto(host.url);
    await page.waitForFunction(() => /ms per|does not work|has not started/.test(document.getElementById("status").textContent));
    await page.locator("#status").waitFor(); // it can be seen, a page that has not started after 3 seconds
    const works = /ms per/.test(await page.textContent("#status"));
    assert.equal(await page.isVisible("main"), works);
    assert.equal(await page.locator("#status.failed").count() === 0, works || !changes.starts);
    if (SCREENSHOTS) await page.screenshot({ path: join(SCREENSHOTS, `${(pictures += 1)}.png`) });
    return (await page.textContent("#status")).replaceAll(/\s+/g, " ").replaceAll(host.url, "");
  } finally {
    await page.close();
    host.close();
  }
}

/** What the page says, file by file. */
const forEach = async (names, change, expected) => {
  for (const name of names) assert.equal(await said({ ...change(`/${name}`), starts: true }), `This does not work here: ${expected(name)}.`);
};

test("a file that is missing", () =>
  forEach(
    NEEDED,
    (path) => ({ missing: [path] }),
    (name) => `the host does not give ${name} (status 404, no MIME type); upload the whole folder that dcgan-export wrote`,
  ));

test("a file that is missing, where the host gives a page of its own instead", () =>
  forEach(
    KINDS,
    (path) => ({ missing: [path], fallback: `${SITE}/index.html` }),
    (name) =>
      `instead of ${name} the host gives a page (status 200, text/html; charset=utf-8); upload the whole folder that dcgan-export wrote, ` +
      "and let the host answer 404 for what it lacks",
  ));

test("modules of a type that browsers do not run", async () => {
  for (const [type, found] of [["application/octet-stream", "application/octet-stream"], ["", "no MIME type"]]) {
    assert.equal(
      await said({ types: { ".js": type }, starts: true }),
      `This does not work here: browsers run no module of the MIME type that the host gives page.js (status 200, ${found}); let it give text/javascript.`,
    );
  }
});

test("models, WebAssembly and JSON may have any type, or none", async () => {
  assert.match(await said({ types: { ".wasm": "", ".onnx": "", ".json": "text/plain" } }), /ms per/);
});

test("pointers of Git LFS in the place of files", async () => {
  const folder = mkdtempSync(join(tmpdir(), "page-"));
  const pointer = join(folder, "pointer");
  writeFileSync(pointer, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  for (const name of KINDS.filter((each) => /onnx$|wasm$/.test(each))) {
    assert.match(await said({ files: { [`/${name}`]: pointer }, starts: true }), new RegExp(`here: ${name} is text, “version https://git-lfs\\.…”`));
  }
  rmSync(folder, { recursive: true });
});

test("a policy of the host that forbids what the page needs", async () => {
  for (const [policy, forbidden] of [
    ["script-src 'self'", "wasm-eval \\(script-src"],
    ["default-src 'none'; script-src 'self' 'wasm-unsafe-eval'", "\\S+ \\(connect-src"],
  ]) {
    const text = await said({ headers: { "Content-Security-Policy": policy }, starts: true });
    assert.match(text, new RegExp(`the host's Content-Security-Policy forbids ${forbidden}\\); this is enough: default-src 'none';`));
  }
});

test("no host at all", async () => {
  const folder = mkdtempSync(join(tmpdir(), "a page "));
  cpSync(SITE, folder, { recursive: true });
  const text = await said({ url: pathToFileURL(join(folder, "index.html")).href, starts: true });
  assert.ok(text.endsWith(`; run python -m http.server --directory "${folder}/" and open http://localhost:8000.`), text);
  rmSync(folder, { recursive: true });
});

/** What the page says in the end to a visitor whose browser keeps what it has from one visit to the next. */
async function visit(visitor, url) {
  const page = await visitor.newPage();
  page.setDefaultTimeout(LIMIT);
  await page.goto(url);
  await page.waitForFunction(() => /ms per|does not work|has not started/.test(document.getElementById("status").textContent));
  const said = await page.evaluate(() => `${document.title}: ${document.getElementById("status").textContent}`);
  return { page, said };
}

/** Until the browser has kept an export, the first or a newer one that waits for the next visit. */
const kept = (page, which) =>
  until(page, async (worker) => Boolean((await navigator.serviceWorker.getRegistration())?.[worker]), which);

/** Ask a page until it says yes; page.waitForFunction takes a promise for one. */
async function until(page, question, about) {
  for (const began = Date.now(); !(await page.evaluate(question, about)); await page.waitForTimeout(50)) {
    if (Date.now() - began > LIMIT) throw new Error(`it did not become true: ${question}`);
  }
}

test("a second visit needs no network; a new export is shown on the visit after the one that found it", async () => {
  const site = mkdtempSync(join(tmpdir(), "page-"));
  cpSync(SITE, site, { recursive: true });
  const host = await serve(site);
  const visitor = await browser.newContext();
  const first = await visit(visitor, host.url);
  assert.match(first.said, /ms per/);
  await kept(first.page, "active");
  await first.page.close();
  await visitor.setOffline(true);
  for (const url of [host.url, `${host.url}index.html?from=elsewhere#seed=7`]) {
    const second = await visit(visitor, url);
    assert.match(second.said, /ms per/, "without a network");
    await second.page.close();
  }
  await visitor.setOffline(false);

  // A new export: another title in the page, and its digest.
  const change = (name, from, to) => writeFileSync(join(site, name), readFileSync(join(site, name), "utf8").replace(from, to));
  const digestOf = (name) => createHash("sha256").update(readFileSync(join(site, name))).digest("hex");
  const before = digestOf("model.json");
  const { title } = JSON.parse(readFileSync(join(site, "model.json"), "utf8"));
  change("model.json", `"${title}"`, '"A new title"');
  const half = await visit(visitor, host.url); // its digest is not there yet: an upload that has only begun
  assert.ok(half.said.startsWith(title));
  await half.page.close();
  change("offline.js", before, digestOf("model.json"));
  change("offline.js", /SITE = "./, 'SITE = "-');
  const third = await visit(visitor, host.url);
  assert.ok(third.said.startsWith(title), "what is kept is shown");
  await kept(third.page, "waiting");
  await third.page.close();
  const fourth = await visit(visitor, host.url);
  assert.ok(fourth.said.startsWith("A new title"), fourth.said);
  await until(fourth.page, async () => (await caches.keys()).length === 1); // the old one is gone
  await fourth.page.close();

  // Its words are edited by hand, which is no new export: the host's own are shown on the visit after.
  change("index.html", "<title>", '<meta name="edited" content="yes" /><title>');
  const isEdited = (page) => page.evaluate(() => document.querySelector('meta[name="edited"]') !== null);
  const fifth = await visit(visitor, host.url);
  assert.equal(await isEdited(fifth.page), false);
  await fifth.page.waitForTimeout(1000);
  await fifth.page.close();
  const sixth = await visit(visitor, host.url);
  assert.equal(await isEdited(sixth.page), true);
  await kept(sixth.page, "active"); // and are kept
  await visitor.close();
  host.close();
  rmSync(site, { recursive: true });
});

test("files that are not of one export are not kept, and the page works", async () => {
  const folder = mkdtempSync(join(tmpdir(), "page-"));
  writeFileSync(join(folder, "style.css"), "body { color: black; }");
  const host = await serve(SITE, { files: { "/style.css": join(folder, "style.css") } });
  const visitor = await browser.newContext();
  const { page, said } = await visit(visitor, host.url);
  assert.match(said, /ms per/);
  const failed = await page.evaluate(async () => {
    const registration = await navigator.serviceWorker.register("offline.js"); // the one that page.js asks for, or again
    const worker = registration.installing ?? registration.waiting ?? registration.active;
    while (!/redundant|activated/.test(worker.state)) await new Promise((resolve) => worker.addEventListener("statechange", resolve, { once: true }));
    return worker.state;
  });
  assert.equal(failed, "redundant");
  await visitor.close();
  host.close();
  rmSync(folder, { recursive: true });
});

test("where a page may keep nothing it works all the same", async () => {
  const host = await serve(SITE);
  const url = host.url.replace("127.0.0.1", OTHER_HOST); // plain http on another host
  assert.match(await said({ url }), /ms per/);
  host.close();
});

test("a page that does not even start, after a while", async () => {
  for (const changes of [{ missing: ["/start.js"] }, { missing: ["/start.js"], fallback: `${SITE}/index.html` }]) {
    assert.match(await said(changes), /^ ?This page has not started\. It needs JavaScript, and its files beside it/);
  }
});
