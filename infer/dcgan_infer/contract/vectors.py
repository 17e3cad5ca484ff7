"""Test vectors for other languages: raw little-endian files and a JSON index, readable without Python and without us.

What contract/golden.py keeps in one file for `dcgan-verify`, and more: several seeds, and labels as they are asked for.
`dcgan_export/vectors.py` makes them, the examples' checks read them; docs/contracts.md, "Test vectors", has the format.
NumPy and the standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import first_line

INDEX = "index.json"
FORMAT = 1
# How numbers are stored, and what a file of them ends in.
DTYPES = {"float32": ("<f4", "f32"), "int64": ("<i8", "i64"), "uint8": ("<u1", "u8")}


@dataclass(frozen=True, eq=False)
class Case:
    """Images that are asked for, and what is right.

    Attributes:
        seed: of the latents.
        asked: labels that are asked for, in turn; -1 or none for what the seed draws.
        z: float32, shape (n, latent_dim).
        label: int64, shape (n,): what `asked` comes to; None of an unconditional model.
        image: float32, shape (n, C, H, W), in the model's value range.
        image_uint8: uint8, shape (n, H, W), or (n, H, W, C) in colour.
    """

    seed: int
    asked: tuple[int, ...]
    z: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64] | None
    image: npt.NDArray[np.float32]
    image_uint8: npt.NDArray[np.uint8]

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.z)

    def feeds(self, inputs: Sequence[str], start: int = 0, n: int | None = None) -> dict[str, npt.NDArray[Any]]:
        """What a model is given for the case, or a part of it.

        Args:
            inputs: names of the model's inputs, out of `z`, `label`, `seed` and `n`. With `seed` among them labels are
                given as they are asked for, else as they come out.
            start: the first image; 0 for a model that takes a seed.
            n: number of images; None for the rest.
        """
        end = self.n if n is None else start + n
        values: dict[str, npt.NDArray[Any]] = {"z": self.z[start:end]}
        if "seed" in inputs:
            assert start == 0
            values = {"seed": np.array(self.seed), "n": np.array(end), "label": np.array(self.asked, np.int64)}
        elif self.label is not None:
            values["label"] = self.label[start:end]
        return {name: values[name] for name in inputs}


@dataclass(frozen=True, eq=False)
class Vectors:
    """The test vectors of a generator.

    Attributes:
        weights_sha256: hexadecimal digest of its weights, the one in the metadata of every artifact made from them.
        cases: at least one.
    """

    weights_sha256: str
    cases: tuple[Case, ...]


def read_vectors(folder: Path) -> Vectors:
    """Read a folder that `dcgan-export --vectors` wrote.

    Raises:
        OSError, ValueError, KeyError: there is none, or it is damaged.
    """
    try:
        return _read(folder, json.loads((folder / INDEX).read_bytes()))
    except (AttributeError, TypeError, OverflowError, RecursionError) as error:  # an entry of another type
        raise ValueError(f"{folder / INDEX} is damaged: {first_line(error)}; export the vectors again") from error


def _read(folder: Path, index: Any) -> Vectors:
    if index["format"] != FORMAT:
        raise ValueError(f"{folder / INDEX} has format {index['format']}, expected {FORMAT}")
    cases = []
    for entry in index["cases"]:
        arrays: dict[str, Any] = {
            name: np.fromfile(folder / part["file"], DTYPES[part["dtype"]][0]).reshape(part["shape"])
            for name, part in entry.items()
            if isinstance(part, dict)
        }
        arrays.setdefault("label", None)
        cases.append(Case(int(entry["seed"]), tuple(entry.get("asked", ())), **arrays))
    return Vectors(index["weights_sha256"], tuple(cases))
