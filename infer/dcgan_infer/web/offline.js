// A service worker: it keeps what the page needs, so that a second visit needs no network. page.js registers it once the
// page works. The kept files are those of one export, by their digests; a new export is fetched beside the old one during
// a visit, and shown from the next visit on.

// dcgan-export fills these in: the digest of all, and by name the files to keep and their SHA-256, in hexadecimal.
const SITE = "";
const FILES = {};

const scope = self.registration.scope; // one host may have several sites
const cacheName = `${scope} ${SITE}`;

async function keep(name) {
  // The host's own page for the folder: some send index.html elsewhere, and a browser takes no such answer from a worker.
  const answer = await fetch(name === "index.html" ? scope : scope + name, { cache: "no-cache" });
  const bytes = await answer.arrayBuffer();
  const digest = Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const isOurs = answer.ok && (digest === FILES[name] || name === "index.html"); // whose words are anybody's to edit
  if (!isOurs) throw new Error(`${name} is not of this export (status ${answer.status}); nothing is kept`);
  const cache = await caches.open(cacheName);
  await cache.put(scope + name, new Response(bytes, { headers: answer.headers }));
}

self.addEventListener("install", (event) => {
  event.waitUntil(Promise.all(Object.keys(FILES).map(keep)));
});

self.addEventListener("activate", (event) => {
  const isOld = (name) => name.startsWith(`${scope} `) && name !== cacheName;
  event.waitUntil(caches.keys().then((names) => Promise.all(names.filter(isOld).map((name) => caches.delete(name)))));
});

self.addEventListener("fetch", (event) => {
  const { method, url, cache } = event.request;
  const name = url.startsWith(scope) ? url.slice(scope.length).replace(/[?#].*/, "") || "index.html" : "";
  // start.js asks past all caches when it looks for what is wrong with a host.
  if (method !== "GET" || cache === "no-store" || !Object.hasOwn(FILES, name)) return;
  event.respondWith(caches.open(cacheName).then((kept) => kept.match(scope + name)).then((answer) => answer ?? fetch(event.request)));
});
