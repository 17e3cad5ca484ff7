"""Static hosts for a site, and what a browser sees of it there.

    dcgan-export --target web --out site
    python tests/static_hosts.py site           # or some: site nginx "npx serve"

prints the table of docs/web-page.md, and fails where a cell is not as it should be. It needs Chromium, `npm install`
in examples/web, and of the hosts as many as there are: nginx, Apache (apache2), Python's http.server, and serve of npm.

Hosts listen on 127.0.0.1 alone, on free ports, as nobody if this is root and
the host is of the system, with configurations of their own in a temporary
folder. They end with the `with` block, or by themselves after some minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "examples" / "web"
INDEX = ROOT / "infer" / "dcgan_infer" / "web" / "index.html"
LIFE = 300  # seconds after which a host ends, whatever became of this program
START = 20  # seconds for a host to answer; they take one

# The strictest policy that the page works with is the page's own; docs/web-page.md gives it too.
(POLICY,) = re.findall(r'http-equiv="Content-Security-Policy"\s+content="([^"]+)"', INDEX.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Condition:
    """How a site is served.

    Attributes:
        name: in the table.
        path: where it is, with slashes around.
        gzip: whether all is packed.
        policy: the Content-Security-Policy that the host sends; none if empty.
        typed: whether the host knows MIME types of .wasm and .onnx.
        lacks: a file that is not there; the host then answers with the page, as for single-page applications.
        slash: whether a browser is sent to the path with the slash at its end.
        says: what the page may say in place of working, a regular expression; none if empty.
    """

    name: str
    path: str = "/"
    gzip: bool = False
    policy: str = ""
    typed: bool = True
    lacks: str = ""
    slash: bool = True
    says: str = ""


CONDITIONS = (
    Condition("root"),
    Condition("sub-path", path="/some/where/"),
    Condition("gzip", gzip=True),
    Condition("policy", policy=POLICY),
    Condition("all three", path="/some/where/", gzip=True, policy=POLICY),
    Condition("no types", typed=False),
    Condition("no slash", path="/some/where/", slash=False, says="has not started.*a slash at the end"),
    Condition(
        "404 is a page",
        lacks="runtime/ort.wasm.min.js",
        says=r"instead of \S+/runtime/ort\.wasm\.min\.js the host gives a page \(status 200, text/html",
    ),
)
# Types of what a browser asks to be right, for hosts that know no others.
TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "json": "application/json",
    "svg": "image/svg+xml",
}


class UnavailableError(Exception):
    """A host is not here, or can't do what is asked of it; the text says why."""


def tool(name: str) -> str:
    """Where a program is. Debian keeps servers in /usr/sbin, which is not on everybody's path."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        raise UnavailableError(f"no {name} here")
    return path


def nginx(folder: Path, port: int, on: Condition, program: str = "") -> list[str]:
    """nginx with the types that it comes with."""
    program = program or tool("nginx")
    own = " ".join(f"{kind} {suffix};" for suffix, kind in TYPES.items())
    types = (
        f"include {Path(program).parents[2] / 'etc' / 'nginx' / 'mime.types'};" if on.typed else f"types {{ {own} }}"
    )
    temporary = "".join(
        f"{kind}_temp_path {folder / kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "conf").write_text(f"""
daemon off;
worker_processes 1;
pid {folder / "pid"};
events {{}}
http {{
    access_log off;
    {temporary}
    {types}
    default_type application/octet-stream;
    gzip {"on" if on.gzip else "off"};
    gzip_types *;
    gzip_comp_level 1;
    server {{
        listen 127.0.0.1:{port};
        root {folder / "root"};
        {f'add_header Content-Security-Policy "{on.policy}" always;' if on.policy else ""}
        {"try_files $uri $uri/ /index.html;" if on.lacks else ""}
    }}
}}
""")
    return [program, "-e", str(folder / "error.log"), "-c", str(folder / "conf")]


def apache(folder: Path, port: int, on: Condition) -> list[str]:
    """Apache with Debian's types."""
    program = tool("apache2")
    modules = ("mpm_event", "authz_core", "dir", "mime", "headers", "filter", "deflate", "rewrite")
    load = "\n".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in modules)
    (folder / "types").write_text("".join(f"{kind} {suffix}\n" for suffix, kind in TYPES.items()))
    (folder / "conf").write_text(f"""
ServerRoot {folder}
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {folder / "pid"}
DefaultRuntimeDir {folder}
ErrorLog {folder / "error.log"}
{load}
TypesConfig {"/etc/mime.types" if on.typed else folder / "types"}
DocumentRoot {folder / "root"}
{"FallbackResource /index.html" if on.lacks else ""}
{"SetOutputFilter DEFLATE" if on.gzip else ""}
{f'Header always set Content-Security-Policy "{on.policy}"' if on.policy else ""}
""")
    return [program, "-X", "-f", str(folder / "conf")]


# http.server with what it has no option for.
HANDLER = """
import functools, http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def end_headers(self):
        self.send_header("Content-Security-Policy", sys.argv[3])
        super().end_headers()
at = ("127.0.0.1", int(sys.argv[1]))
http.server.ThreadingHTTPServer(at, functools.partial(Handler, directory=sys.argv[2])).serve_forever()
"""


def http_server(folder: Path, port: int, on: Condition) -> list[str]:
    """Python's own, with Python's types."""
    if on.gzip or on.lacks or not on.typed:
        raise UnavailableError("can't")
    root = str(folder / "root")
    if on.policy:
        return [sys.executable, "-c", HANDLER, str(port), root, on.policy]
    return [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", root]


def serve(folder: Path, port: int, on: Condition) -> list[str]:
    """What `npx serve` runs."""
    if not on.typed:
        raise UnavailableError("can't")
    npm, node = tool("npm"), tool("node")
    package = Path(tempfile.gettempdir()) / f"serve-{os.getuid()}"
    if not (package / "node_modules").exists():
        command = [npm, "install", "--prefix", str(package), "--ignore-scripts", "--no-audit", "--no-fund", "serve@14"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnavailableError(f"npm can't install serve: {done.stderr.strip().splitlines()[0]}")
    options = [*(["--single"] if on.lacks else []), *([] if on.gzip else ["--no-compression"])]
    if on.policy:
        headers = [{"key": "Content-Security-Policy", "value": on.policy}]
        (folder / "serve.json").write_text(json.dumps({"headers": [{"source": "**", "headers": headers}]}))
        options += ["--config", str(folder / "serve.json")]
    return [
        node, str(package / "node_modules" / "serve" / "build" / "main.js"), str(folder / "root"), *options,
        "--listen", f"tcp://127.0.0.1:{port}", "--no-port-switching",
    ]  # fmt: skip


HOSTS: dict[str, Callable[[Path, int, Condition], list[str]]] = {
    "nginx": nginx,
    "Apache": apache,
    "http.server": http_server,
    "npx serve": serve,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def hosting(host: Callable[[Path, int, Condition], list[str]], site: Path, on: Condition) -> Iterator[str]:
    """Serve a site; gives its URL.

    Raises:
        UnavailableError: the host is not here, can't do this, or does not start.
    """
    with tempfile.TemporaryDirectory(prefix="host-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        shutil.copytree(site, folder / "root" / on.path.strip("/"))
        if on.lacks:
            (folder / "root" / on.lacks).unlink()
        folder.chmod(0o777)  # for its log and the like, as nobody
        port = free_port()
        program, *arguments = host(folder, port, on)
        command = ["timeout", str(LIFE), program, *arguments]
        # Programs of the system; a Python in somebody's home is not nobody's to run.
        is_root = os.getuid() == 0 and program.startswith("/usr/")
        nobody: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if is_root else {}
        with (folder / "said").open("w+") as said:
            quiet = os.environ | {"NO_UPDATE_CHECK": "1"}  # of serve
            process = subprocess.Popen(command, stdout=said, stderr=said, cwd=folder, env=quiet, **nobody)
            try:
                wait_for(process, port, folder)
                yield f"http://127.0.0.1:{port}{on.path if on.slash else on.path.rstrip('/')}"
            finally:
                process.terminate()
                process.wait(20)


def wait_for(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    """Until a host answers.

    Raises:
        UnavailableError: it does not; what it said.
    """
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    words = [path.read_text().strip() for path in (folder / "said", folder / "error.log") if path.exists()]
    raise UnavailableError(f"does not start: {' '.join(words)[-300:]}")


def visit(urls: Sequence[str], driver: Path = WEB) -> list[dict[str, Any]]:
    """What a browser sees at these URLs: examples/web/visit.mjs says how it is told."""
    done = subprocess.run(
        ["node", "visit.mjs", *urls], cwd=driver, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines()]


def works(seen: dict[str, Any]) -> bool:
    return bool(re.search(r"WebAssembly, \d threads?: [\d.]+ ms per", seen["said"]))


def faults(on: Condition, seen: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    answers: dict[str, dict[str, Any]] = seen["answers"]
    wasm = [answer for path, answer in answers.items() if path.endswith(".wasm")]
    found = []
    if not works(seen) and not (on.says and re.search(on.says, seen["said"])):
        found.append(f"the page says: {seen['said']}")
    if works(seen) and on.typed:
        found += [f"the console says: {line}" for line in seen["console"]]
    if on.gzip and {answer["encoding"] for answer in wasm} - {"gzip", "deflate", "br"}:
        found.append("the WebAssembly was not packed")
    if {answer["policy"] for answer in answers.values()} != {on.policy}:
        found.append("the policy was not sent with all")
    if not on.typed and any("wasm" in answer["type"] for answer in wasm):
        found.append("the WebAssembly had a type")
    return found


def row_of(name: str, site: Path, failed: list[str]) -> list[str]:
    """The cells of a host, one for each condition, and the types it gives; what is wrong goes to `failed`."""
    with ExitStack() as stack:
        found = [started(stack, name, site, on) for on in CONDITIONS]
        visited = iter(visit([url for url, _ in found if url]))
        cells, types = [], "not seen"
        for on, (url, why_not) in zip(CONDITIONS, found, strict=True):
            if not url:
                cells.append(why_not)
                continue
            seen = next(visited)
            wrong = faults(on, seen)
            failed += [f"{name}, {on.name}: {fault}" for fault in wrong]
            cells.append("NO" if wrong else "yes" if works(seen) else "says so")
            if on == CONDITIONS[0]:
                ends = ("threaded.wasm", "model.onnx")
                types = ", ".join(
                    v["type"] or "none" for end in ends for k, v in seen["answers"].items() if k.endswith(end)
                )
    return [*cells, types]


def started(stack: ExitStack, name: str, site: Path, on: Condition) -> tuple[str, str]:
    """The URL of a host, or else why there is none."""
    try:
        return stack.enter_context(hosting(HOSTS[name], site, on)), ""
    except UnavailableError as error:
        return "", str(error)


def main() -> int:
    site, *names = sys.argv[1:] or ["site"]
    if unknown := set(names) - set(HOSTS):
        print(f"not a host: {', '.join(unknown)}; choose from {', '.join(HOSTS)}", file=sys.stderr)
        return 2
    if not (Path(site) / "model.json").exists():
        print(f"{site} is not a site; make one: dcgan-export --target web --out {site}", file=sys.stderr)
        return 2
    print("| host |", " | ".join(on.name for on in CONDITIONS), "| types of .wasm, .onnx |")
    print("|---" * (len(CONDITIONS) + 2) + "|")
    failed: list[str] = []
    for name in names or HOSTS:
        print(f"| {name} |", " | ".join(row_of(name, Path(site), failed)), "|", flush=True)
    print("\n".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
