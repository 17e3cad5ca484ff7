// What the page says where its host is at fault: SITE=site node --test hosts.test.mjs
//
// SCREENSHOTS may name a folder, which gets a picture of each message.

import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { after, before, test } from "node:test";
import { closeServers, launch, serve } from "./browser.mjs";

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
  assert.match(await said({ url: pathToFileURL(resolve(SITE, "index.html")).href, starts: true }), /serve its folder: python -m http\.server/);
});

test("a page that does not even start, after a while", async () => {
  for (const changes of [{ missing: ["/start.js"] }, { missing: ["/start.js"], fallback: `${SITE}/index.html` }]) {
    assert.match(await said(changes), /^ ?This page has not started\. It needs JavaScript, and its files beside it/);
  }
});
