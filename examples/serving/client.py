"""Digits from a server that speaks the Open Inference Protocol, with Python's standard library alone.

    python client.py http://127.0.0.1:8080 dcgan-mnist-conditional --seed 7 --n 16 --out digits.pgm

The server may be MLServer with runtime.py, or Triton with what `dcgan-export --target triton` writes: what the model
takes is asked of the server first.
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

CLASSES = 10  # the protocol does not tell how many a model has
CODES = {"FP32": "f", "UINT8": "B"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a served generator for digits.")
    parser.add_argument("url", help="of the server, like http://127.0.0.1:8080")
    parser.add_argument("model", help="its name on the server")
    parser.add_argument("--seed", type=int, default=0, help="0 to 2^63 - 1; digit i of a seed is always the same")
    parser.add_argument("--n", type=int, default=16, help="number of digits")
    parser.add_argument("--label", default="", metavar="0,1", help="which digits, in turn; else the seed draws them")
    parser.add_argument(
        "--out", type=Path, required=True, help="file: raw numbers as the model gives them, or a picture (.pgm)"
    )
    options = parser.parse_args()
    try:
        wanted = [int(word) for word in options.label.split(",") if word.strip()]
    except ValueError:
        parser.error(f"--label is numbers between commas, found {options.label!r}")
    if options.n < 1 or not 0 <= options.seed < 2**63:
        parser.error("--n is 1 or more, and --seed 0 to 2^63 - 1")
    try:
        output = ask(options.url.rstrip("/"), options.model, options.seed, options.n, wanted)
    except urllib.error.HTTPError as error:
        sys.exit(f"the server says {error.code}: {error.read().decode(errors='replace')[:300]}")
    except LookupError as error:
        sys.exit(f"{options.url} answers for {options.model}, but not as the server of a generator: no {error}")
    except (OSError, ValueError) as error:
        sys.exit(f"can't ask {options.url} for {options.model}: {error}")
    try:
        options.out.write_bytes(picture(output) if options.out.suffix == ".pgm" else raw(output))
    except OSError as error:
        sys.exit(f"can't write {options.out}: {error.strerror}")


def ask(url: str, model: str, seed: int, n: int, wanted: Sequence[int]) -> dict[str, Any]:
    """Digits 0 to n - 1 of a seed.

    Args:
        url: of the server.
        model: its name on the server.
        seed: 0 to 2^63 - 1.
        n: number of digits, 1 or more.
        wanted: labels, in turn; -1, or none at all, for those that the seed draws.
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
    if wanted and "label" not in takes:
        raise ValueError("--label is for conditional models, and this one makes any digit")
    values: dict[str, list[Any]] = {"seed": [seed], "n": [n], "label": list(wanted)}
    sizes = {"label": len(wanted)}
    if "seed" not in takes:  # no model that draws latents itself: we draw them
        drawn = [words(seed, i, 65536)[0] * CLASSES >> 32 for i in range(n)]
        turn = [wanted[i % len(wanted)] if wanted else -1 for i in range(n)]
        values["label"] = [drawn[i] if turn[i] < 0 else turn[i] for i in range(n)]
        values["z"] = [number for i in range(n) for number in latent(seed, i, takes["z"]["shape"][1])]
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


def picture(output: Mapping[str, Any]) -> bytes:
    """A PGM picture, ten digits a row."""
    count, (height, width) = output["shape"][0], output["shape"][-2:]
    levels = output["data"]
    if output["datatype"] == "FP32":
        levels = [round((min(1.0, max(-1.0, value)) + 1.0) * 127.5) for value in levels]
    columns = min(count, 10)
    rows = -(-count // columns)
    sheet = bytearray(rows * height * columns * width)
    for i in range(count):
        for y in range(height):
            at = (i // columns * height + y) * columns * width + i % columns * width
            line = (i * height + y) * width
            sheet[at : at + width] = bytes(levels[line : line + width])
    return f"P5 {columns * width} {rows * height} 255\n".encode() + sheet


def latent(seed: int, i: int, length: int) -> list[float]:
    """Latent i of a seed, by the contract of docs/latents.md."""
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
