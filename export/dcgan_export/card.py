"""A model card for the Hugging Face Hub: Markdown, below keys that the Hub reads. Nothing in it is made up.

The keys are those of https://github.com/huggingface/hub-docs/blob/main/modelcard.md. Imports neither torch nor onnx.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcgan.data import IMAGES
from dcgan_infer import shipped
from dcgan_infer.contract.errors import ExportError
from dcgan_infer.contract.spec import DRAWN, VERSIONS_KEY, GeneratorSpec, trained_on
from dcgan_infer.manifest import MANIFEST

if TYPE_CHECKING:
    from dcgan.checkpoint import GeneratorCheckpoint

    from .publish import Artifact

# The exporters of the Hub's own libraries write model.onnx, and dcgan-infer takes the only ONNX file of a folder.
# onnx/model.onnx is what transformers.js loads, and it has no class for these models.
MODEL, WEIGHTS, GOLDEN = "model.onnx", "model.safetensors", "model.golden"
CONFIG, PREVIEW, CARD = "config.json", "preview.png", "README.md"
# Keys of a card, in order. Without library_name, a folder with a config.json passes for one of transformers.
FRONT_MATTER = ("license", "library_name", "pipeline_tag", "tags", "datasets", "metrics", "model-index")
LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"
# Ids on the Hub of the data sets that dcgan-train knows by name, where it is plain which one is the data set itself.
DATASETS = {
    "mnist": "ylecun/mnist",
    "sample": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "svhn": "ufldl-stanford/svhn",
    "food101": "ethz/food101",
    "imagenette": "frgfm/imagenette",
}
_TAGS = ("dcgan", "gan", "onnx", "onnxruntime")
_NAMED = 20  # classes, at most
_COLUMNS, _PREVIEW_SIDE = 10, 1500  # of the preview: images, and pixels unless a single image has more


def license_id(text: str) -> str:
    """A licence's id, spelled as the Hub spells them all: in small letters.

    Raises:
        ExportError: it can't be one.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*([.-][a-z0-9]+)*", text.lower()):
        raise ExportError(f"{text!r} is not an id of a licence, such as mit or apache-2.0; {LICENSES} lists them")
    return text.lower()


def front_matter(blocks: Mapping[str, str]) -> str:
    """The top of a card: YAML between two lines of dashes.

    Args:
        blocks: lines of YAML, by the key of `FRONT_MATTER` that they begin with.
    """
    return "---\n" + "".join(blocks[key] for key in FRONT_MATTER if key in blocks) + "---\n"


def read_front_matter(card: Path) -> dict[str, str]:
    """What `front_matter` was given, of a card in a file."""
    _, front, _ = card.read_text(encoding="utf-8").split("---\n", 2)
    return {block.partition(":")[0]: block for block in re.split(r"^(?=[a-z])", front, flags=re.MULTILINE) if block}


def columns_of(spec: GeneratorSpec) -> tuple[int, tuple[str, ...]]:
    """Of the preview, which has as many rows: how many there are, and the classes of each, or none where all mix."""
    columns = max(1, min(_COLUMNS, _PREVIEW_SIDE // max(spec.image_shape[1:])))
    return (spec.num_classes, spec.labels) if 1 < spec.num_classes <= columns else (columns, ())


@dataclass(frozen=True)
class Card:
    """What a card is made of.

    Attributes:
        name: of the model.
        source: the generator.
        artifact: its ONNX file.
        digests: SHA-256 of the files, by name.
        license: its id on the Hub; None where nobody said.
    """

    name: str
    source: GeneratorCheckpoint
    artifact: Artifact
    digests: Mapping[str, str]
    license: str | None

    @property
    def _dataset(self) -> str:
        """Its name in dcgan-train, or `IMAGES`; empty where nobody knows."""
        return trained_on(self.source.recipe)

    @property
    def blocks(self) -> dict[str, str]:
        """Of the front matter. A model that ships has a card, which says more."""
        tags = (*_TAGS, "conditional") if self.source.spec.num_classes else _TAGS
        dataset = DATASETS.get(self._dataset)
        known = {
            "library_name": "library_name: dcgan-toolkit\n",
            "pipeline_tag": "pipeline_tag: unconditional-image-generation\n",
            "tags": _list("tags", tags),
            **({"datasets": _list("datasets", [dataset])} if dataset else {}),
        }
        path = self.source.path
        if path is not None and path.resolve().parent == shipped.FOLDER.resolve() and path.with_suffix(".md").exists():
            # Figures of other images say nothing of these.
            is_same = self.artifact.report.is_same
            wanted = ("license", "datasets", *(("metrics", "model-index") if is_same else ()))
            known |= {key: block for key, block in read_front_matter(path.with_suffix(".md")).items() if key in wanted}
        return known | ({"license": f"license: {self.license}\n"} if self.license else {})

    def to_markdown(self) -> str:
        """All of it."""
        spec, blocks = self.source.spec, self.blocks
        picture = [f"![Images of seed 0]({PREVIEW})", "", *_caption(spec)] if spec.image_shape[0] in DRAWN else []
        lines = [
            f"# {_plain(self.name)}",
            "",
            *picture,
            *_table(("", ""), self._rows(blocks).items()),
            "## Files",
            "",
            *self._files(),
            "## How to run it",
            "",
            *self._programs(),
            "## How it was checked",
            "",
            *self._proof(),
            "## How good it is",
            "",
            *self._quality(blocks),
        ]
        return front_matter(blocks) + "\n" + "\n".join(lines)

    def _rows(self, blocks: Mapping[str, str]) -> dict[str, str]:
        spec = self.source.spec
        channels, height, width = spec.image_shape
        kind = {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
        count = sum(parameter.numel() for parameter in self.source.module.parameters())
        label = f" and one of {spec.num_classes} classes" if spec.num_classes else ""
        network = f"{len(spec.layers)} layers, which `{CONFIG}` lists" if spec.layers else "not a chain of known layers"
        stated = f"not stated: add a line `license: ...` to the top of this file ([ids]({LICENSES}))"
        if "license" in blocks:
            stated = blocks["license"].partition(": ")[2].strip()
        return {
            "What it is": f"the generator of a GAN, {count:,} parameters: {spec.latent_dim} numbers from N(0, 1)"
            f"{label} in, a {kind} image of {height}x{width} pixels out",
            **({"Classes": _classes(spec)} if spec.num_classes else {}),
            "Network": network,
            **_recognised(self.source.source),
            **_training(self.source.recipe, ", ".join(re.findall(r"- (\S+)", blocks.get("datasets", "")))),
            "Weights": f"sha256 `{self.source.weights_sha256}`",
            "Versions": _plain(self.artifact.metadata[VERSIONS_KEY]),
            "Licence": stated,
        }

    def _files(self) -> list[str]:
        variant = self.artifact.variant
        inputs = ["seed", "n"] if variant.inputs == "seed" else ["z"]
        takes = ", ".join(f"`{name}`" for name in (*inputs, *(["label"] if self.source.spec.num_classes else [])))
        precision = variant.precision + (", for processors with VNNI" if variant.optimize == "vnni" else "")
        purposes = {
            MODEL: f"onnxruntime and other runtimes: {takes} in, `image` out; {precision}",
            WEIGHTS: "dcgan-export: the weights, and what they are of",
            GOLDEN: "dcgan-verify: latents, and the images that the checkpoint makes of them in float64",
        }
        rows = [(f"`{file}`", purposes[file], f"`{digest}`") for file, digest in self.digests.items()]
        missing = (
            f"There is no `{WEIGHTS}`: the network is code, and the weights are of use only beside that code."
            if WEIGHTS not in self.digests
            else ""
        )
        return [*_table(("file", "for", "sha256"), rows), *_prose(missing)]

    def _programs(self) -> list[str]:
        """How the model is run in its folder, with our package and without."""
        spec, variant = self.source.spec, self.artifact.variant
        drawn = spec.image_shape[0] in DRAWN
        shape = f"({', '.join(map(str, (16, *spec.picture_shape)))})"
        asked = f"cls={spec.labels[0]!r}, " if spec.num_classes else ""
        ours = [
            "from dcgan_infer import ImageGenerator",
            "",
            f'generator = ImageGenerator("{MODEL}")',
            f"images = generator(16, {asked}seed=0)  # uint8, shape {shape}; 0 is black",
            *(['images.grid().save("grid.png")'] if drawn else []),
        ]
        low, high = spec.value_range
        feeds = '"seed": np.array(0), "n": np.array(16)' if variant.inputs == "seed" else '"z": z'
        feeds += f', "label": np.arange(16) % {spec.num_classes}' if spec.num_classes else ""
        drawing = f"z = np.random.default_rng(0).standard_normal((16, {spec.latent_dim}), dtype=np.float32)"
        floats = f"({', '.join(map(str, (16, *spec.image_shape)))}), from {low:g} to {high:g}"
        levels = "(images + 1) * 127.5" if low else "images * 255"
        alone = [
            "import os",
            "",
            "import numpy as np",
            "",
            'os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import',
            "import onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("{MODEL}", providers=["CPUExecutionProvider"])',
            *([drawing] if variant.inputs == "z" else []),
            f'(images,) = session.run(["image"], {{{feeds}}})',
            f"# {f'uint8, shape {shape}' if variant.is_uint8 else f'float32, shape {floats}'}",
            *([] if variant.is_uint8 else [f"pixels = ({levels}).round().clip(0, 255).astype(np.uint8)"]),
        ]
        return [
            *_prose("With dcgan-toolkit, in this folder and without torch:"),
            f"    dcgan-infer --model . --n 16 --out {'grid.png' if drawn else 'images.npy'}",
            "",
            *("```python", *ours, "```", ""),
            *_prose("With onnxruntime alone:"),
            *("```python", *alone, "```", ""),
        ]

    def _proof(self) -> list[str]:
        report, (low, high) = self.artifact.report, self.source.spec.value_range
        verdict = report.verdict.replace("your checkpoint", "the checkpoint")
        head = ("latents", "images", "largest error", "limit", "float32's own", "pixels off", "worst, of 255 levels")
        rows = [
            (
                row.latents.replace("|", "\\|"),
                f"{row.difference.images}",
                f"{row.difference.max_error:.2e}",
                "none" if row.difference.limit is None else f"{row.difference.limit:.2e}",
                f"{row.eager_max_error:.2e}",
                f"{row.difference.pixels_off:,} of {row.difference.pixels:,}",
                f"{row.difference.max_levels}",
            )
            for row in report.figures
        ]
        return [
            *_prose(
                f"Before it published `{MODEL}`, `dcgan-export` ran it in onnxruntime and the checkpoint in float64, "
                f"and compared their images. {verdict[:1].upper()}{verdict[1:]}. Errors are in units of the values, "
                f"which go from {low:g} to {high:g}; beside them stands the error of torch's own float32."
            ),
            *_table(head, rows),
            *_prose(
                f"`dcgan-verify .` compares `{MODEL}` with `{GOLDEN}`, without torch; `sha256sum -c {MANIFEST}` checks "
                "the other files."
            ),
        ]

    def _quality(self, blocks: Mapping[str, str]) -> list[str]:
        command = "dcgan-eval ." if self._dataset not in ("", IMAGES) else "dcgan-eval . --images FOLDER"
        text = f"This was not measured. `{command}` compares its images with real ones."
        if "model-index" in blocks:
            text = "The figures at the top of this file were measured with `dcgan-eval` on images of these weights."
        return _prose(text)


def _list(key: str, entries: Iterable[str]) -> str:
    return f"{key}:\n" + "".join(f"- {entry}\n" for entry in entries)


def _plain(text: str) -> str:
    """Somebody's words, so that they mean nothing in Markdown or HTML."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", printable.strip())
    return re.sub(r"(?i)\b(https?|ftp|www|mailto)(?=[:.])", "\\1\u200b", escaped)  # else an address becomes a link


def _prose(text: str) -> list[str]:
    """A paragraph; nothing of no text."""
    return [*textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False), ""] if text else []


def _table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)] + [""]


def _caption(spec: GeneratorSpec) -> list[str]:
    by_class = ", a column for each class" if columns_of(spec)[1] else ""
    return _prose(f"*The first images of seed 0, not selected{by_class}.*")


def _classes(spec: GeneratorSpec) -> str:
    more = f" and {spec.num_classes - _NAMED} more" if spec.num_classes > _NAMED else ""
    return ", ".join(map(_plain, spec.labels[:_NAMED])) + more


def _entries(text: str) -> dict[str, Any]:
    """The JSON object under a metadata key; an empty one where there is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _recognised(source: str) -> dict[str, str]:
    """Rows on how the network was known, and what was assumed of it."""
    facts = _entries(source)

    def said(value: Any) -> str:
        return "; ".join(_plain(f"{what} {each}") for what, each in value.items()) if isinstance(value, dict) else ""

    layout = str(facts.get("layout", ""))
    known = f"the module {facts.get('module')}" if layout == "module" else f"the layout {layout}"
    rows = {
        "Read as": _plain(known) if layout else "",
        "Assumed": said(facts.get("assumed"))
        and f"{said(facts.get('assumed'))} (the weights do not say, and the file was compared with that network)",
        "Given": said(facts.get("given")) and f"{said(facts.get('given'))} (the weights do not say)",
    }
    return {title: text for title, text in rows.items() if text}


def _training(recipe: str, ids: str) -> dict[str, str]:
    """Rows on how it was trained, as far as dcgan-train wrote it down, or else by the data sets' ids."""
    found = _entries(recipe)
    names = {"name": "recipe", "epochs": "epochs", "batch_size": "batch size", "loss": "loss", "g_lr": "learning rate"}
    said = ", ".join(f"{what} {_plain(str(found[key]))}" for key, what in names.items() if key in found)
    dataset = trained_on(recipe)
    named = "a folder of images" if dataset == IMAGES else _plain(dataset) or ids
    rows = {"Trained on": named, "Trained by": said and f"dcgan-train: {said}"}
    return {title: text for title, text in rows.items() if text}
