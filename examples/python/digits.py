"""Digits with onnxruntime and NumPy alone; nothing here imports the project.

python digits.py MODEL.onnx --seed 7 --n 20 --label=0,1,-1 --out digits.pgm    a picture to look at
python digits.py MODEL.onnx --seed 7 --n 20 --out digits.raw                   what the model gives, row by row
python digits.py latents --seed 7 --n 4 --out z.f32                            the latents alone, float32 (4, 100)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import onnxruntime
from latents import labels, latents

Array = npt.NDArray[Any]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def label_list(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def make_inputs(session: onnxruntime.InferenceSession, options: argparse.Namespace, parser: Parser) -> dict[str, Array]:
    """What the model takes: a seed, or latents and labels made of it here."""
    inputs = {value.name: value for value in session.get_inputs()}
    spec = json.loads(session.get_modelmeta().custom_metadata_map.get("dcgan.spec", "{}"))
    classes = spec.get("num_classes", 0)
    if options.label and "label" not in inputs:
        parser.error("--label is for conditional models, and this one makes any digit")
    if options.label and not all(-1 <= label < classes for label in options.label):
        parser.error(f"--label takes 0 to {classes - 1}, or -1 for what the seed draws, found {options.label}")
    asked = np.array(options.label or [-1], np.int64)  # in turn
    if "seed" in inputs:  # the model makes its latents itself
        feeds: dict[str, Array] = {"seed": np.array(options.seed, np.int64), "n": np.array(options.n, np.int64)}
        return feeds | ({"label": asked} if "label" in inputs else {})
    if "z" not in inputs:
        parser.exit(1, f"{parser.prog}: {options.model} takes neither z nor a seed; give a file of dcgan-export\n")
    feeds = {"z": latents(options.seed, options.n, inputs["z"].shape[1])}
    if "label" in inputs:
        turn = asked[np.arange(options.n) % len(asked)]
        feeds["label"] = np.where(turn < 0, labels(options.seed, options.n, classes), turn)
    return feeds


def generate(options: argparse.Namespace, parser: Parser) -> Array:
    """Run the model; its images, float32 (n, 1, 28, 28) from -1 to 1 or grey levels (n, 28, 28)."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(options.model, settings, providers=["CPUExecutionProvider"])
    feeds = make_inputs(session, options, parser)
    best = float("inf")
    for _ in range(options.repeat or 1):
        start = time.perf_counter()
        images: Array = session.run(None, feeds)[0]
        best = min(best, time.perf_counter() - start)
    if options.repeat:
        print(f"{options.n / best:.0f} images/s, best of {options.repeat} runs of {options.n}")
    return images


def picture(images: Array) -> bytes:
    """A PGM file, ten digits a row."""
    if images.dtype != np.uint8:  # -1 is black; a runtime may give 1.0000002
        images = np.rint((images.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    columns = min(len(images), 10)
    grid = np.zeros((-(-len(images) // columns) * columns, 28, 28), np.uint8)
    grid[: len(images)] = images.reshape(-1, 28, 28)
    pixels: bytes = grid.reshape(-1, columns, 28, 28).swapaxes(1, 2).tobytes()
    return f"P5 {28 * columns} {28 * len(grid) // columns} 255\n".encode() + pixels


def main() -> None:
    parser = Parser(prog="digits.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="an ONNX file, or the word latents")
    parser.add_argument("--seed", type=int, default=0, help="0 to 2^63 - 1")
    parser.add_argument("--n", type=int, default=16, help="number of images")
    parser.add_argument("--label", type=label_list, metavar="0,1,...", help="digits to make, in turn; -1: as drawn")
    parser.add_argument("--out", type=Path, required=True, help="a .pgm is a picture, anything else the raw numbers")
    parser.add_argument("--threads", type=int, default=0, help="of the runtime; 0: as many as it wants")
    parser.add_argument("--repeat", type=int, default=0, help="run it so often, and say how fast the fastest was")
    options = parser.parse_args()
    if not 0 <= options.seed < 1 << 63:
        parser.error(f"--seed takes 0 to 2^63 - 1, found {options.seed}")
    if not 1 <= options.n < 1 << 32:
        parser.error(f"--n takes 1 to 2^32 - 1, found {options.n}")
    try:
        result = latents(options.seed, options.n, 100) if options.model == "latents" else generate(options, parser)
        shown = options.out.suffix == ".pgm" and options.model != "latents"
        options.out.write_bytes(picture(result) if shown else result.astype(result.dtype.newbyteorder("<")).tobytes())
    except Exception as error:  # onnxruntime's have no class in common but this
        sys.exit(f"digits.py: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main()
