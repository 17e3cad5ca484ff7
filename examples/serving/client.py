"""Images from a server that speaks the Open Inference Protocol, with Python's standard library alone.

    python client.py http://127.0.0.1:8080 dcgan-mnist-conditional --seed 7 --n 16 --out digits.pgm

The server may be MLServer with runtime.py, or Triton with what `dcgan-export --target triton` writes: what the model
takes, and its spec, are asked of the server first.
"""

import argparse
import array
import json
import math
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CODES = {"FP32": "f", "UINT8": "B"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a served generator for images.")
    parser.add_argument("url", help="of the server, like http://127.0.0.1:8080")
    parser.add_argument("model", help="its name on the server")
    parser.add_argument("--seed", type=int, default=0, help="0 to 2^63 - 1; image i of a seed is always the same")
    parser.add_argument("--n", type=int, default=16, help="number of images")
    parser.add_argument(
        "--class", dest="classes", default="", metavar="A,B", help="names or numbers of classes, in turn; -1: as drawn"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="file: raw numbers as the model gives them, or a picture (.pgm, .ppm)"
    )
    options = parser.parse_args()
    if options.n < 1 or not 0 <= options.seed < 2**63:
        parser.error("--n is 1 or more, and --seed 0 to 2^63 - 1")
    try:
        spec = spec_of(options.url.rstrip("/"), options.model)
        wanted = [class_of(spec, text) for text in options.classes.split(",")] if options.classes else []
        output = ask(options.url.rstrip("/"), options.model, spec, options.seed, options.n, wanted)
        content = picture(output, spec) if options.out.suffix in (".pgm", ".ppm") else raw(output)
    except ClassError as error:
        parser.error(str(error))
    except urllib.error.HTTPError as error:
        sys.exit(f"the server says {error.code}: {error.read().decode(errors='replace')[:300]}")
    except LookupError as error:
        sys.exit(f"{options.url} answers for {options.model}, but not as the server of a generator: no {error}")
    except (OSError, ValueError) as error:
        sys.exit(f"can't ask {options.url} for {options.model}: {error}")
    try:
        options.out.write_bytes(content)
    except OSError as error:
        sys.exit(f"can't write {options.out}: {error.strerror}")


class ClassError(Exception):
    """The model has no such class."""


def spec_of(url: str, model: str) -> dict[str, Any]:
    """What a model says of itself: sizes, classes, and the values of black and of white.

    MLServer with runtime.py tells it with the model's metadata; Triton has an address of its own for the configuration.
    """
    told = fetch(f"{url}/v2/models/{model}").get("parameters") or {}
    if "dcgan.spec" not in told:
        told = fetch(f"{url}/v2/models/{model}/config").get("parameters") or {}
    if "dcgan.spec" not in told:
        raise ValueError("the server does not tell its spec; use this folder's runtime.py, or export to Triton again")
    text = told["dcgan.spec"]
    spec: dict[str, Any] = json.loads(text["string_value"] if isinstance(text, dict) else text)
    return {"class_names": [], **spec}  # files of 0.1 have no names


def class_of(spec: Mapping[str, Any], text: str) -> int:
    """The number of a class, from its name or its number; -1 is what the seed draws."""
    names, last = spec["class_names"], spec["num_classes"] - 1
    if text in names:
        return int(names.index(text))
    if last < 0:
        raise ClassError("--class is for models with classes, and this one has none")
    if text.removeprefix("-").isdecimal() and -1 <= int(text) <= last:
        return int(text)
    listed = f" or {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else ""
    raise ClassError(f"--class takes 0 to {last}{listed}, and -1 for what the seed draws, found {text}")


def ask(url: str, model: str, spec: Mapping[str, Any], seed: int, n: int, wanted: Sequence[int]) -> dict[str, Any]:
    """Images 0 to n - 1 of a seed.

    Args:
        url: of the server.
        model: its name on the server.
        spec: of it.
        seed: 0 to 2^63 - 1.
        n: number of images, 1 or more.
        wanted: classes, in turn; -1, or none at all, for those that the seed draws.
    Returns:
        The protocol's output `image`: `datatype`, `shape` and flat `data`.
    Raises:
        OSError: there is no such server or model, or it refuses.
        ValueError: it answers no JSON, or the model is no generator.
    """
    address = f"{url}/v2/models/{model}"
    takes = {tensor["name"]: tensor for tensor in fetch(address)["inputs"]}
    if takes.keys() - {"label"} not in ({"z"}, {"seed", "n"}):
        raise ValueError(f"a generator takes z, or seed and n, and perhaps label; this takes {', '.join(takes)}")
    values: dict[str, list[Any]] = {"seed": [seed], "n": [n], "label": list(wanted)}
    sizes = {"label": len(wanted)}
    if "seed" not in takes:  # no model that draws latents itself: we draw them
        drawn = [words(seed, i, 65536)[0] * spec["num_classes"] >> 32 for i in range(n)]
        turn = [wanted[i % len(wanted)] if wanted else -1 for i in range(n)]
        values["label"] = [drawn[i] if turn[i] < 0 else turn[i] for i in range(n)]
        values["z"] = [number for i in range(n) for number in latent(seed, i, spec["latent_dim"])]
        sizes = {"z": n, "label": n}
    inputs = [
        {
            "name": name,
            "datatype": tensor["datatype"],
            "shape": [sizes.get(name, 1) if size < 0 else size for size in tensor["shape"]],
            "data": values[name],
        }
        for name, tensor in takes.items()
    ]
    answer: dict[str, Any] = fetch(f"{address}/infer", {"inputs": inputs})["outputs"][0]
    return answer


def fetch(address: str, body: Mapping[str, Any] | None = None) -> Any:
    """What a server answers: to GET, or to POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def raw(output: Mapping[str, Any]) -> bytes:
    """The numbers as the model gave them, little-endian."""
    numbers = array.array(CODES[output["datatype"]], output["data"])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def picture(output: Mapping[str, Any], spec: Mapping[str, Any]) -> bytes:
    """A PGM picture of grey images, a PPM picture of colour, ten images a row."""
    (channels, height, width), (low, high) = spec["image_shape"], spec["value_range"]
    if channels not in (1, 3):
        raise ValueError(f"a picture is grey or in colour, and these images have {channels} channels")
    count, size, data = output["shape"][0], height * width, output["data"]
    if output["datatype"] == "FP32":  # planes, one after the other
        data = [round((min(high, max(low, value)) - low) * (255 / (high - low))) for value in data]
        starts = range(0, count * channels * size, channels * size)
        data = [data[start + c * size + at] for start in starts for at in range(size) for c in range(channels)]
    columns = min(count, 10)
    rows, line = -(-count // columns), width * channels
    sheet = bytearray(rows * height * columns * line)
    for row in range(count * height):
        i, y = divmod(row, height)
        at = ((i // columns * height + y) * columns + i % columns) * line
        sheet[at : at + line] = bytes(data[row * line : (row + 1) * line])
    return f"P{5 if channels == 1 else 6} {columns * width} {rows * height} 255\n".encode() + sheet


def latent(seed: int, i: int, length: int) -> list[float]:
    """Latent i of a seed, by the contract of docs/contracts.md."""
    numbers = []
    for pair in range((length + 1) // 2):
        x0, x1 = words(seed, i, pair)
        radius = math.sqrt(-2.0 * math.log(((x0 >> 8) + 1) / 2**24))
        angle = 2.0 * math.pi * (x1 >> 8) / 2**24
        numbers += [radius * math.cos(angle), radius * math.sin(angle)]
    return numbers[:length]


def words(seed: int, c0: int, c1: int) -> tuple[int, int]:
    """Threefry-2x32 with 20 rounds: two random words of 32 bits."""
    mask = 2**32 - 1
    low, high = seed & mask, seed >> 32
    keys = [low, high, 0x1BD11BDA ^ low ^ high]
    x0, x1 = (c0 + low) & mask, (c1 + high) & mask
    for step in range(20):
        distance = (13, 15, 26, 6, 17, 29, 16, 24)[step % 8]
        x0 = (x0 + x1) & mask
        x1 = ((x1 << distance | x1 >> (32 - distance)) & mask) ^ x0
        if step % 4 == 3:
            s = step // 4 + 1
            x0, x1 = (x0 + keys[s % 3]) & mask, (x1 + keys[(s + 1) % 3] + s) & mask
    return x0, x1


if __name__ == "__main__":
    main()
