// A static server and a Chromium for checks. CHROMIUM names the browser; the default is where Debian puts it.

import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { chromium } from "playwright-core";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css",
  ".js": "text/javascript",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};
/** A name for this machine that is not localhost: of its pages on plain http browsers are wary. */
export const OTHER_HOST = "page.example";

// No sandbox, as root has none; and nothing that would call home.
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", `--host-resolver-rules=MAP ${OTHER_HOST} 127.0.0.1`,
];

const closers = new Set();

/** Close all that `serve` has opened: a process does not end before, also where a test has failed. */
export function closeServers() {
  for (const close of closers) close();
}

/**
 * Serve a folder, as any static host would.
 *
 * @param {string} folder
 * @param {{files?: Record<string, string>, missing?: string[], headers?: Record<string, string>, types?: Record<string, string>, fallback?: string}} [changes]
 *   `files`: URL paths of further or other files; `missing`: URL paths that are not there; `headers`: to add; `types`: other
 *   MIME types, by the end of the name, "" for none; `fallback`: a file to give with status 200 for what is not there
 * @returns {Promise<{url: string, close: () => void}>}
 */
export async function serve(folder, { files = {}, missing = [], headers = {}, types = {}, fallback } = {}) {
  const server = createServer((request, answer) => {
    const path = new URL(request.url, "http://localhost").pathname; // no name of ours needs decoding
    let file = files[path] ?? join(folder, normalize(path.endsWith("/") ? `${path}index.html` : path));
    if (missing.includes(path) || !existsSync(file) || statSync(file).isDirectory()) file = fallback;
    if (file === undefined) {
      answer.writeHead(404).end();
      return;
    }
    const known = { ...TYPES, ...types };
    const type = known[extname(file)] ?? known[extname(path)] ?? "application/octet-stream";
    answer.writeHead(200, { ...(type && { "Content-Type": type }), ...headers });
    createReadStream(file).pipe(answer);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  closers.add(close);
  return { url: `http://127.0.0.1:${server.address().port}/`, close };
}

/** Start Chromium; the caller closes it. */
export async function launch() {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  if (!existsSync(executablePath)) throw new Error(`there is no ${executablePath}; install chromium, or set CHROMIUM`);
  return chromium.launch({ executablePath, headless: true, args: FLAGS });
}
