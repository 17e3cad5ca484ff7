// Starts the page, and says why it does not work. No module, so that it runs where a host or a file:// lets no module run.

{
  const status = document.getElementById("status");
  const main = document.querySelector("main");
  const forbidden = []; // by a Content-Security-Policy

  document.addEventListener("securitypolicyviolation", (event) => {
    if (/^(script|connect|worker)-src/.test(event.effectiveDirective)) forbidden.push(event);
  });

  /** The first bytes of an answer, as characters; the rest is not waited for. */
  const startOf = async (answer) => {
    const reader = answer.body.getReader();
    const { value = [] } = await reader.read();
    reader.cancel();
    return String.fromCharCode(...value.slice(0, 100));
  };

  /**
   * Look for a reason in what the host answers.
   *
   * @param {string[]} urls of files, one of which may be missing, or served as what it is not
   * @returns {Promise<string>} what is wrong, with which URL, and what to do; empty if that can't be seen
   */
  const whatIsWrong = async (urls) => {
    if (location.protocol === "file:") {
      const folder = decodeURIComponent(new URL(".", location).pathname).replace(/^\/(?=[A-Z]:)/i, "");
      return `a page opened as a file can load nothing; run python -m http.server --directory "${folder}" and open http://localhost:8000`;
    }
    await new Promise((resolve) => setTimeout(resolve)); // the events of what was forbidden come after its errors
    if (forbidden.length) {
      const [{ blockedURI, effectiveDirective }] = forbidden;
      const { content } = document.querySelector('meta[http-equiv="Content-Security-Policy"]');
      return `the host's Content-Security-Policy forbids ${blockedURI} (${effectiveDirective}); this is enough: ${content}`;
    }
    for (const url of urls) {
      let answer;
      try {
        answer = await fetch(url, { cache: "no-store" });
      } catch (error) {
        return `${url} can't be fetched (${error.message}); see whether the host can be reached, and reload`;
      }
      const found = `status ${answer.status}, ${answer.headers.get("Content-Type") || "no MIME type"}`;
      if (!answer.ok) return `the host does not give ${url} (${found}); upload the whole folder that dcgan-export wrote`;
      const start = await startOf(answer);
      if (/^\s*</.test(start)) {
        return `instead of ${url} the host gives a page (${found}); upload the whole folder that dcgan-export wrote, and let the host answer 404 for what it lacks`;
      }
      // The types of the WHATWG's "MIME Sniffing", section 4.6, that are in use.
      if (/\.m?js$/.test(url) && !/(text|application)\/(x-)?(java|ecma)script/.test(found)) {
        return `browsers run no module of the MIME type that the host gives ${url} (${found}); let it give text/javascript`;
      }
      if (/\.(wasm|onnx)$/.test(url) && /^[\x20-\x7e]{16}/.test(start)) {
        return `${url} is text, “${start.slice(0, 24)}…” (${found}), perhaps a pointer of Git LFS; upload the file that dcgan-export wrote`;
      }
    }
    return "";
  };

  /** Say that something does not work, and why: what the files of the error tell, or else the error. */
  const fail = async (error, what = "This") => {
    console.error(error);
    status.classList.add("failed");
    status.textContent = "Looking for what is wrong …";
    const reason = (await whatIsWrong(error?.files ?? []).catch(() => "")) || String(error?.message ?? error);
    status.textContent = `${what} does not work here: ${reason.replace(/\.+$/, "")}.`;
  };

  const start = async () => {
    let page;
    try {
      page = await import("./page.js");
    } catch (error) {
      error.files = [...document.querySelectorAll('link[rel="modulepreload"]')].map(({ href }) => href);
      throw error;
    }
    await page.start(fail);
  };

  main.hidden = false;
  status.className = "";
  status.textContent = "Loading the model …";
  start().catch((error) => {
    main.hidden = true; // nothing to use, and the reason stands where a phone shows it
    return fail(error);
  });
}
