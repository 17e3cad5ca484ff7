"""A folder for the Hugging Face Hub: the model, its weights, its spec, exact images, a preview, and a model card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcgan_infer.contract.files import new_folder, sha256_of
from dcgan_infer.contract.spec import DRAWN
from dcgan_infer.manifest import MANIFEST

from .card import CARD, CONFIG, GOLDEN, LICENSES, MODEL, PREVIEW, WEIGHTS, Card, columns_of
from .formats import Variant

if TYPE_CHECKING:
    from dcgan.checkpoint import GeneratorCheckpoint

    from .publish import Artifact, Beside


@dataclass(frozen=True)
class HubFolder:
    """A folder that was published.

    Attributes:
        path: of the folder.
        artifact: the ONNX file in it.
        files: number of files.
        size: of all of them, in bytes.
        notes: what the card lacks.
    """

    path: Path
    artifact: Artifact
    files: int
    size: int
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        described = {"folder": str(self.path), "files": self.files, "bytes": self.size}
        return {**described, "model": self.artifact.as_dict(), "golden": str(self.path / GOLDEN)}


def publish_to_hub(
    source: GeneratorCheckpoint,
    path: Path,
    variant: Variant,
    beside: Beside,
    say: Callable[[str], None],
    *,
    name: str,
    license: str | None,  # noqa: A002
) -> HubFolder:
    """Publish a folder that can be pushed as it is.

    Args:
        source: the generator.
        path: of the folder; must not exist, or be empty. It appears whole or not at all.
        variant: of the ONNX file.
        beside: what else to write; golden vectors are in the folder.
        say: told what is being done, in a few words.
        name: of the model, for the card.
        license: its id on the Hub; None where nobody said.
    Raises:
        OutputError: the folder is there, or can't be written.
        ExportError, ParityError, CheckpointError: as `publish.publish` raises them.
    """
    from dcgan.checkpoint import save_generator  # needs torch, which --help does not

    from .publish import publish

    with new_folder(path) as folder:
        beside = dataclasses.replace(beside, golden=folder / GOLDEN)
        artifact = publish(source, folder / MODEL, variant, beside, say)
        if source.chain is not None:
            weights = source.chain.state_dict()
            save_generator(folder / WEIGHTS, weights, source.spec, source.recipe, source.source)
        spec = json.loads(source.spec.to_json())
        (folder / CONFIG).write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8")
        if source.spec.image_shape[0] in DRAWN:
            say("drawing the preview")
            _draw(folder / MODEL, folder / PREVIEW)
        large = [file for file in (MODEL, WEIGHTS, GOLDEN, PREVIEW) if (folder / file).exists()]
        lines = [f"*{Path(file).suffix} filter=lfs diff=lfs merge=lfs -text\n" for file in large]
        (folder / ".gitattributes").write_text("".join(lines), encoding="utf-8")
        digests = {file: sha256_of(folder / file) for file in large if file != PREVIEW}
        sums = digests | {file: sha256_of(folder / file) for file in (CONFIG, PREVIEW) if (folder / file).exists()}
        lines = [f"{digest}  {file}\n" for file, digest in sorted(sums.items())]
        (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")
        card = Card(name, source, artifact, digests, license)
        (folder / CARD).write_text(card.to_markdown(), encoding="utf-8")
        sizes = [file.stat().st_size for file in folder.iterdir()]
    lacks = f"{path / CARD} states no licence: add a line to its top, or give --license ID ({LICENSES})"
    notes = () if "license" in card.blocks else (lacks,)
    return HubFolder(path, dataclasses.replace(artifact, path=path / MODEL), len(sizes), sum(sizes), notes)


def _draw(model: Path, picture: Path) -> None:
    """The first images of seed 0 in rows, as dcgan-infer draws them; where classes are few, a column for each."""
    from dcgan_infer.generator import ImageGenerator
    from dcgan_infer.render import render
    from dcgan_infer.request import Request

    generator = ImageGenerator(model, provider="cpu")
    columns, classes = columns_of(generator.spec)
    request = Request(picture, "png", n=columns**2, seed=0, classes=classes, grid=(columns, columns))
    render(request, generator=generator)
