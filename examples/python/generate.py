"""Images with onnxruntime and NumPy alone; nothing here imports the project.

python generate.py MODEL.onnx --seed 7 --n 20 --class=0,1,-1 --out images.ppm  a picture to look at
python generate.py MODEL.onnx --seed 7 --n 20 --out images.raw                 what the model gives, row by row
python generate.py latents --seed 7 --n 4 --out z.f32                          the latents alone, float32 (4, 100)
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from latents import labels, latents

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would write into ~/.cache, and ask for a server's address
import onnxruntime

Array = npt.NDArray[Any]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def read_spec(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """What the file says of itself: sizes, classes, and the values of black and of white."""
    text = session.get_modelmeta().custom_metadata_map.get("dcgan.spec")
    if text is None:
        raise ValueError("the file does not say what it makes (no dcgan.spec); give one of dcgan-export")
    return {"class_names": [], **json.loads(text)}  # files of 0.1 have no names


def class_of(spec: dict[str, Any], text: str) -> int:
    """The number of a class, from its name or its number; -1 is what the seed draws."""
    names, last = spec["class_names"], spec["num_classes"] - 1
    if text in names:
        return int(names.index(text))
    if re.fullmatch(r"-1|[0-9]+", text) and -1 <= int(text) <= last:
        return int(text)
    listed = f" or {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else ""
    raise ValueError(f"--class takes 0 to {last}{listed}, and -1 for what the seed draws, found {text}")


def make_inputs(
    session: onnxruntime.InferenceSession, spec: dict[str, Any], options: argparse.Namespace, parser: Parser
) -> dict[str, Array]:
    """What the model takes: a seed, or latents and labels made of it here."""
    inputs = {value.name for value in session.get_inputs()}
    if options.classes and "label" not in inputs:
        parser.error("--class is for models with classes, and this one has none")
    try:
        wanted = [class_of(spec, text) for text in options.classes.split(",")] if options.classes else [-1]
    except ValueError as error:
        parser.error(str(error))
    asked = np.array(wanted, np.int64)  # in turn
    if "seed" in inputs:  # the model makes its latents itself
        feeds: dict[str, Array] = {"seed": np.array(options.seed, np.int64), "n": np.array(options.n, np.int64)}
        return feeds | ({"label": asked} if "label" in inputs else {})
    if "z" not in inputs:
        parser.exit(1, f"{parser.prog}: {options.model} takes neither z nor a seed; give a file of dcgan-export\n")
    feeds = {"z": latents(options.seed, options.n, spec["latent_dim"])}
    if "label" in inputs:
        turn = asked[np.arange(options.n) % len(asked)]
        feeds["label"] = np.where(turn < 0, labels(options.seed, options.n, spec["num_classes"]), turn)
    return feeds


def generate(options: argparse.Namespace, parser: Parser) -> tuple[Array, dict[str, Any]]:
    """Run the model; its images, float32 (n, C, H, W) or uint8 (n, H, W) or (n, H, W, 3), and its spec."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(options.model, settings, providers=["CPUExecutionProvider"])
    spec = read_spec(session)
    feeds = make_inputs(session, spec, options, parser)
    best = float("inf")
    for _ in range(options.repeat or 1):
        start = time.perf_counter()
        images: Array = session.run(None, feeds)[0]
        best = min(best, time.perf_counter() - start)
    if options.repeat:
        print(f"{options.n / best:.0f} images/s, best of {options.repeat} runs of {options.n}")
    return images, spec


def picture(images: Array, spec: dict[str, Any]) -> bytes:
    """A PGM file of grey images, a PPM file of colour, ten images a row."""
    (channels, height, width), (low, high) = spec["image_shape"], spec["value_range"]
    if channels not in (1, 3):
        raise ValueError(f"a picture is grey or in colour, and these images have {channels} channels")
    if images.dtype != np.uint8:  # a runtime may give 1.0000002
        levels = np.rint((images.clip(low, high) - low) * (255 / (high - low))).astype(np.uint8)
        images = levels.transpose(0, 2, 3, 1)
    columns = min(len(images), 10)
    rows = -(-len(images) // columns)
    grid = np.zeros((rows * columns, height, width, channels), np.uint8)
    grid[: len(images)] = images.reshape(-1, height, width, channels)
    pixels: bytes = grid.reshape(rows, columns, height, width, channels).swapaxes(1, 2).tobytes()
    return f"P{5 if channels == 1 else 6} {width * columns} {height * rows} 255\n".encode() + pixels


def main() -> None:
    parser = Parser(prog="generate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="an ONNX file, or the word latents")
    parser.add_argument("--seed", type=int, default=0, help="0 to 2^63 - 1")
    parser.add_argument("--n", type=int, default=16, help="number of images")
    parser.add_argument(
        "--class", dest="classes", metavar="A,B,...", help="names or numbers of classes, in turn; -1: as drawn"
    )
    parser.add_argument("--latent-dim", type=int, default=100, help="of the word latents; models say their own")
    parser.add_argument("--out", type=Path, required=True, help="a .pgm or .ppm is a picture, others the raw numbers")
    parser.add_argument("--threads", type=int, default=0, help="of the runtime; 0: as many as it wants")
    parser.add_argument("--repeat", type=int, default=0, help="run it so often, and say how fast the fastest was")
    options = parser.parse_args()
    if not 0 <= options.seed < 1 << 63:
        parser.error(f"--seed takes 0 to 2^63 - 1, found {options.seed}")
    if not 1 <= options.n < 1 << 32:
        parser.error(f"--n takes 1 to 2^32 - 1, found {options.n}")
    if not 1 <= options.latent_dim <= 65536:
        parser.error(f"--latent-dim takes 1 to 65536, found {options.latent_dim}")
    spec: dict[str, Any] = {}
    try:
        if options.model == "latents":
            result = latents(options.seed, options.n, options.latent_dim)
        else:
            result, spec = generate(options, parser)
        shown = spec and options.out.suffix in (".pgm", ".ppm")
        content = picture(result, spec) if shown else result.astype(result.dtype.newbyteorder("<")).tobytes()
        options.out.write_bytes(content)
    except Exception as error:  # onnxruntime's have no class in common but this
        sys.exit(f"generate.py: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main()
