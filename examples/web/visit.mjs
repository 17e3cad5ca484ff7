// What a browser sees of pages: node visit.mjs URL...
//
// Prints a line of JSON for each: what the page says, what its console says, and of each answer the status, the type and
// how it is packed. tests/static_hosts.py asks it.

import { launch } from "./browser.mjs";

const LIMIT = 60_000; // milliseconds for a page
const browser = await launch();
try {
  for (const url of process.argv.slice(2)) {
    const page = await browser.newPage();
    const [console_, answers] = [[], {}];
    page.on("pageerror", ({ message }) => console_.push(message));
    page.on("console", (message) => {
      // Chromium's word on navigator.gpu where there is none.
      if (message.type() !== "log" && !/^No available adapters/.test(message.text())) console_.push(message.text());
    });
    page.on("response", (answer) => {
      const { "content-type": type = "", "content-encoding": encoding = "", "content-security-policy": policy = "" } = answer.headers();
      answers[new URL(answer.url()).pathname] = { status: answer.status(), type, encoding, policy };
    });
    await page.goto(url);
    // The text of index.html itself is of a page that has not started, and can be seen after 3 seconds.
    await page.waitForFunction(() => {
      const status = document.getElementById("status");
      return /ms per|does not work/.test(status.textContent) || (status.className === "late" && performance.now() > 4000);
    }, undefined, { timeout: LIMIT });
    const said = (await page.textContent("#status")).replaceAll(/\s+/g, " ").trim();
    console.log(JSON.stringify({ url, said, console: console_, answers }));
    if (process.env.SCREENSHOTS) await page.screenshot({ path: `${process.env.SCREENSHOTS}/${url.replaceAll(/\W+/g, "-")}.png` });
    await page.close();
  }
} finally {
  await browser.close();
}
