"""Making test vectors for other languages from a checkpoint; infer/dcgan_infer/contract/vectors.py has the format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcgan.checkpoint import GeneratorCheckpoint
from dcgan_infer.contract.files import owned, replacing
from dcgan_infer.contract.golden import BATCHES, COUNT
from dcgan_infer.contract.latents import asked_labels, latents
from dcgan_infer.contract.pixels import to_pictures
from dcgan_infer.contract.spec import SEEDS
from dcgan_infer.contract.vectors import DTYPES, FORMAT, INDEX

from .exact import run_exactly


@dataclass(frozen=True)
class _Request:
    """What is asked of a model.

    Attributes:
        seed: of the latents.
        n: number of images.
        label: asked of a conditional model, in turn; -1 for the one that the seed draws, none for all such.
    """

    seed: int
    n: int
    label: tuple[int, ...]


# The golden images, a plain request, a key whose low word is 0, and the last seed of all.
CASES = (
    _Request(0, COUNT, tuple(range(10))),
    _Request(7, 4, ()),
    _Request(2**32, 4, (-1, 3)),
    _Request(SEEDS - 1, 4, (5,)),
)


def write_vectors(checkpoint: GeneratorCheckpoint, folder: Path) -> None:
    """Write what `make_vectors` gives into a folder, the index last. Files of the same names are replaced.

    Several at once take turns, so that all files are of one of them.

    Raises:
        CheckpointError: as `make_vectors`.
        OutputError: it can't be written to.
    """
    files = make_vectors(checkpoint)
    with owned(folder, patience=5.0):
        for name, content in files.items():
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content)


def make_vectors(checkpoint: GeneratorCheckpoint) -> dict[str, bytes]:
    """Run a checkpoint in float64 on the latents and labels of `CASES`.

    Returns:
        Content of each file, by name.
    Raises:
        CheckpointError: it gives values that are not finite.
    """
    spec = checkpoint.spec
    files: dict[str, bytes] = {}
    cases = []
    for case in CASES:
        z = latents(case.seed, 0, case.n, spec.latent_dim)
        asked = tuple(label for label in case.label if label < spec.num_classes)
        label = asked_labels(case.seed, case.n, asked, spec.num_classes) if spec.num_classes else None
        batches = BATCHES if case.n == COUNT else (case.n,)
        right, _ = run_exactly(checkpoint.module, z, label, batches, f"seed {case.seed}")
        arrays: dict[str, npt.NDArray[Any]] = {
            "z": z,
            "image": right.astype(np.float32),
            "image_uint8": to_pictures(right, spec.value_range),
        }
        entry: dict[str, Any] = {"seed": str(case.seed), "n": case.n}  # text: JavaScript's numbers end at 2^53
        if label is not None:
            entry["asked"] = list(asked)
            arrays["label"] = label
        for name, array in arrays.items():
            code, suffix = DTYPES[array.dtype.name]
            file = f"seed-{case.seed}.{name}.{suffix}"
            files[file] = np.ascontiguousarray(array, code).tobytes()
            entry[name] = {"file": file, "dtype": array.dtype.name, "shape": list(array.shape)}
        cases.append(entry)
    index: Mapping[str, Any] = {
        "format": FORMAT,
        "spec": json.loads(spec.to_json()),
        "weights_sha256": checkpoint.weights_sha256,
        "cases": cases,
    }
    return {**files, INDEX: (json.dumps(index) + "\n").encode()}
