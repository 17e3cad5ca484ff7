"""A web site that makes digits in the browser: the page of `dcgan_infer.web`, models, and onnxruntime-web from npm.

Any static host serves it; nothing in it asks another one.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dcgan_infer
from dcgan_infer.contract.errors import ExportError, ParityError, first_line
from dcgan_infer.contract.files import new_folder, sha256_of, temporary_folder
from dcgan_infer.contract.spec import (
    MNIST_NAMES,
    RECIPE_KEY,
    SOURCE_KEY,
    SPEC_KEY,
    WEIGHTS_SHA256_KEY,
    GeneratorSpec,
    trained_on,
)
from dcgan_infer.extras import require

from .formats import Variant

if TYPE_CHECKING:
    from dcgan.checkpoint import GeneratorCheckpoint

    from .publish import Artifact, Beside

PAGE = Path(dcgan_infer.__file__).resolve().parent / "web"
_SERVED = (".css", ".html", ".js", ".svg", ".txt")  # of the page: an editor may have left other files beside
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# Of the package's archive, as npm writes it. A new version takes a new one: npm view onnxruntime-web@X dist.integrity
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# As the package names them, by the backends of generator.js: the two builds, and what each loads.
RUNTIME = {
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.jspi.min.mjs", "ort-wasm-simd-threaded.jspi.mjs", "ort-wasm-simd-threaded.jspi.wasm"),
}
# By backend: a model's file, and its precisions, the first that can be had. WebGPU has no 8-bit convolutions, and 16
# bits halve the download.
MODELS = {"wasm": ("model.onnx", ("int8", "fp16", "fp32")), "webgpu": ("model-fp16.onnx", ("fp16", "fp32"))}
LARGEST_FILE = 25 * 2**20  # bytes: Cloudflare Pages takes no larger file, and no other free host is known to take less
PREVIEW = "preview.png"  # what others show of a link
_PREVIEW_SIZE, _PREVIEW_SIDE = (
    (1200, 630),
    112,
)  # pixels: of all, 1.91 to 1 as Open Graph's readers show it; of an image
_PAPER = (255, 253, 248)  # --card of style.css in the light
# Words of the page, and that grey levels are ink: black on white, and inverted in the dark.
_DIGITS = {"title": "Digits that nobody wrote", "noun": "digit", "ink": True}
# The archive has no licence file, its package.json says MIT; the licence wants its text to go with the copies.
_LICENSE = f"""The files in this folder are from the npm package {PACKAGE} {VERSION}, unchanged but for names:
modules end in .mjs there and in .js here. (The package's own files with those names are other ones.)

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

The WebAssembly files hold code of other projects too; their notices are in ThirdPartyNotices.txt of
https://github.com/microsoft/onnxruntime at v{VERSION}. The file of that name here is of the onnxruntime that was
installed when this folder was written.
"""


@dataclass(frozen=True)
class Site:
    """A site that was published.

    Attributes:
        path: of its folder.
        models: by backend.
        files: number of files.
        size: of all of them, in bytes.
        notes: where a model has more bits than it might, and why; files that some hosts refuse.
    """

    path: Path
    models: dict[str, Artifact]
    files: int
    size: int
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        models = {backend: artifact.as_dict() for backend, artifact in self.models.items()}
        return {"folder": str(self.path), "files": self.files, "bytes": self.size, "models": models}


def publish_site(
    source: GeneratorCheckpoint,
    path: Path,
    name: str,
    runtime: Path | None = None,
    beside: Beside | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Site:
    """Publish a site, ready to serve.

    Args:
        source: the generator.
        path: of the folder; must not exist, or be empty. It appears whole or not at all.
        name: of the model, for the page and the names of what it saves.
        runtime: onnxruntime-web as npm packs it; None lets npm fetch it.
        beside: what else to write; None: nothing.
        say: told what is being done, in a few words.
    Raises:
        ExportError: the runtime can't be had, or is another one than it should be.
        OutputError: the folder is there, or can't be written.
        ParityError, CheckpointError: as `publish.publish` raises them.
    """
    from .publish import Beside  # needs torch, which --help does not

    with new_folder(path) as folder:
        say(f"getting {PACKAGE} {VERSION}")
        _vendor(runtime, folder / "runtime")
        models: dict[str, Artifact] = {}
        notes: list[str] = []
        for backend, (file, precisions) in MODELS.items():
            # Golden vectors and the like are of the checkpoint: once is enough, when all else has passed.
            more = beside if beside and len(models) == len(MODELS) - 1 else Beside()
            artifact = _smallest(source, folder / file, precisions, more, say, notes)
            models[backend] = dataclasses.replace(artifact, path=path / file)
        lay_page(folder, _about(name, models))
        notes += [
            f"{file.name} has {file.stat().st_size:,} bytes; some free hosts take no file above {LARGEST_FILE:,}"
            for file in sorted(folder.rglob("*"))
            if file.stat().st_size > LARGEST_FILE
        ]
        sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return Site(path, models, len(sizes), sum(sizes), tuple(notes))


def lay_page(folder: Path, about: Mapping[str, Any]) -> None:
    """Add the page to a folder that has the models and the runtime: its files, model.json and a preview.

    Args:
        folder: with the models that `about` names, and runtime/.
        about: what becomes model.json; index.html gets its words.
    """
    for page in sorted(page for page in PAGE.iterdir() if page.suffix in _SERVED):
        shutil.copyfile(page, folder / page.name)
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    (folder / PREVIEW).write_bytes(_preview(folder / about["models"]["wasm"]["file"], about))
    index = _worded((folder / "index.html").read_text(encoding="utf-8"), about)
    (folder / "index.html").write_text(index, encoding="utf-8")
    needed = ["index.html", *re.findall(r'(?:href|src)="([^"]+)"', index)]
    digests = {name: sha256_of(folder / name) for name in sorted(needed)}
    site = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    worker = _replaced((folder / "offline.js").read_text(encoding="utf-8"), 'SITE = ""', f'SITE = "{site}"')
    worker = _replaced(worker, "FILES = {}", f"FILES = {json.dumps(digests, indent=2)}")
    (folder / "offline.js").write_text(worker, encoding="utf-8")


def _worded(index: str, about: Mapping[str, Any]) -> str:
    """index.html with the words that page.js gives it too, for who reads it without running it."""
    noun = str(about.get("noun", "image"))
    title = str(about.get("title", f"{noun[:1].upper()}{noun[1:]}s that nobody made"))
    index = _replaced(index, "Images that nobody made", html.escape(title))
    index = _replaced(index, "Images that a small", html.escape(f"{noun[:1].upper()}{noun[1:]}s that a small"))
    return _replaced(index, ">images<", f">{html.escape(noun)}s<")


def _replaced(text: str, old: str, new: str) -> str:
    assert old in text, f"the page has lost {old}"
    return text.replace(old, new)


def _preview(model: Path, about: Mapping[str, Any]) -> bytes:
    """The first images of seed 0 as a PNG, in rows, ink on paper where the page shows ink."""
    import numpy as np
    from PIL import Image

    from dcgan_infer.generator import ImageGenerator
    from dcgan_infer.writers import encoded_png

    generator = ImageGenerator(model)
    channels, height, width = generator.spec.image_shape
    scale = _PREVIEW_SIDE / max(height, width)
    # Small ones grow by whole numbers, so that their pixels are squares.
    scale = int(scale) if scale > 1 else scale
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    columns, rows = (room // side for room, side in zip(_PREVIEW_SIZE, size, strict=True))
    pictures = np.asarray(generator.generate(columns * rows, seed=0))
    if channels == 1 and about.get("ink"):
        share = 1 - pictures[..., None] / 255.0
        pictures = np.rint(share * _PAPER).astype(np.uint8)
    sheet = Image.new("RGB", _PREVIEW_SIZE, _PAPER)
    left, top = ((room - side * n) // 2 for room, side, n in zip(_PREVIEW_SIZE, size, (columns, rows), strict=True))
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    for i, picture in enumerate(pictures):
        at = (left + i % columns * size[0], top + i // columns * size[1])
        sheet.paste(Image.fromarray(picture).convert("RGB").resize(size, how), at)
    facts = {
        "dcgan.model": str(about["name"]),
        "dcgan.model_sha256": generator.model.sha256,
        "dcgan.seed": "0",
        "dcgan.start": "0",
        "dcgan.n": str(columns * rows),
        "dcgan.grid": f"{rows}x{columns}",
    }
    return encoded_png(np.asarray(sheet), facts)


def _smallest(
    source: GeneratorCheckpoint,
    path: Path,
    precisions: tuple[str, ...],
    beside: Beside,
    say: Callable[[str], None],
    notes: list[str],
) -> Artifact:
    """Publish a model in the first of these precisions that passes; why not in those before it goes to the notes."""
    from .publish import publish

    precision, *more = precisions
    try:
        return publish(source, path, Variant(precision=precision, image="uint8"), beside, say)
    except ExportError as error:
        if not more:
            raise
        reason = error.report.reasons[0] if isinstance(error, ParityError) else str(error)
        notes.append(f"{path.name} is {more[0]}, not {precision}: {reason}")
    return _smallest(source, path, tuple(more), beside, say, notes)


def _about(name: str, models: dict[str, Artifact]) -> dict[str, Any]:
    """What the page has to know beside a model's own metadata."""
    metadata = next(iter(models.values())).metadata
    return {
        "name": name,
        **(_DIGITS if _makes_digits(metadata) else {}),
        "spec": json.loads(metadata[SPEC_KEY]),
        "weights_sha256": metadata[WEIGHTS_SHA256_KEY],
        "models": {
            backend: {
                "file": MODELS[backend][0],
                "precision": artifact.variant.precision,
                "bytes": artifact.size,
                "sha256": artifact.sha256,
            }
            for backend, artifact in models.items()
        },
        "runtime": {"package": PACKAGE, "version": VERSION},
    }


def _makes_digits(metadata: Mapping[str, str]) -> bool:
    """Whether a generator is as dcgan-train makes them of MNIST: 28x28 in grey, no classes or ten without names.

    Version 0.1 did not say which data set it was; then it is taken for MNIST.
    """
    spec = GeneratorSpec.from_json(metadata[SPEC_KEY])
    is_ours = SOURCE_KEY not in metadata
    is_like_mnist = spec.image_shape == (1, 28, 28) and spec.num_classes in (0, 10) and not spec.class_names
    return is_ours and is_like_mnist and trained_on(metadata.get(RECIPE_KEY, "")) in {"", *MNIST_NAMES}


def _vendor(archive: Path | None, folder: Path) -> None:
    """Put the runtime into a folder, with its licence."""
    folder.mkdir()
    # Not beside the site: npm looks for settings in the folders above it.
    with temporary_folder(Path(tempfile.gettempdir()), "dcgan-npm") as temporary:
        packed = archive or _fetch(temporary)
        try:
            content = packed.read_bytes()
        except OSError as error:
            raise ExportError(
                f"can't read --runtime {packed}: {first_line(error).lower()}; get it with npm pack {PACKAGE}@{VERSION}"
            ) from error
        if f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}" != INTEGRITY:
            raise ExportError(
                f"{packed.name} is not {PACKAGE} {VERSION} as it was published (its sha512 differs); get it again: "
                f"npm pack {PACKAGE}@{VERSION}"
            )
        with tarfile.open(fileobj=io.BytesIO(content)) as members:  # the bytes that were checked, and no others
            for file in (file for files in RUNTIME.values() for file in files):
                member = members.extractfile(f"package/dist/{file}")
                assert member is not None  # the digest says that it is there
                # Not every host knows .mjs (Debian 12's nginx does not), and browsers run no module of an unknown type.
                (folder / file.replace(".mjs", ".js")).write_bytes(member.read())
    (folder / "LICENSE.txt").write_text(_LICENSE, encoding="utf-8")
    (installed,) = require("onnxruntime", "cpu").__path__
    notices = Path(installed) / "ThirdPartyNotices.txt"
    if notices.exists():  # as in all wheels of onnxruntime's own
        shutil.copyfile(notices, folder / notices.name)


def _fetch(folder: Path) -> Path:
    """Let npm download the runtime; its path."""
    npm = shutil.which("npm")
    advice = f"or get it where there is npm and a network (npm pack {PACKAGE}@{VERSION}) and give --runtime FILE.tgz"
    if npm is None:
        raise ExportError(f"{PACKAGE} comes from npm, which is not here: install Node.js, {advice}")
    # Errors alone, and no line on where npm keeps its log: then its first line is the reason.
    quiet = ["--loglevel=error", "--logs-max=0"]
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", *quiet, "--pack-destination", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    packed = sorted(folder.glob("*.tgz"))
    if done.returncode or not packed:
        words = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[0]
        raise ExportError(f"npm can't get {PACKAGE} {VERSION} ({words[:120]}); check the network, {advice}")
    return packed[0]
