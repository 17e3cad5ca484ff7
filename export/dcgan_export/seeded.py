"""The latent contract inside an ONNX graph, so that a model takes a seed and makes its latents itself.

docs/contracts.md is the contract and `contract/latents.py` its peer in NumPy. Standard operators only. Threefry needs
BitwiseXor and so opset 18; its 32-bit words are int64 here, since older runtimes add, multiply and divide no unsigned
numbers (onnxruntime 1.20 has no Add of uint32). Box and Muller's step is in float64, so that rounding to float32 gives
the contract's own normals nearly always.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx.utils
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dcgan_infer.contract.latents import LABEL_COUNTER, PARITY, ROTATIONS, ROUNDS
from dcgan_infer.contract.spec import Interface

OLDEST_OPSET = 18  # has BitwiseXor
# Values inside the graph that used to be its inputs: float32 (n, latent_dim), and int64 (n,).
LATENTS, LABELS = "z", "label.each"

_PREFIX = "latent."  # of the names of all that is added


def add_seed(model: ModelProto, spec: Interface) -> None:
    """Make a model take a seed where it took latents, in place.

    The new inputs are int64: `seed`, a scalar from 0 to 2^63 - 1; `n`, a scalar, the number of images; `label`, shape
    (K,): image i gets the one at i modulo K, and where that is negative, or K is 0, the one that the seed draws.

    Args:
        model: with the inputs `z` and perhaps `label`, in opset 18 or newer.
        spec: of the generator.
    """
    graph = model.graph
    front = _Front()
    pairs = (spec.latent_dim + 1) // 2
    index = front("Range", front.constant("zero", np.int64(0)), "n", front.constant("one", np.int64(1)))
    words = _threefry(front, index, [*range(pairs), LABEL_COUNTER] if spec.num_classes else list(range(pairs)))
    x0, x1 = (_columns(front, word, 0, pairs) for word in words) if spec.num_classes else words
    _normals(front, x0, x1, spec.latent_dim)
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in ("seed", "n")]
    if spec.num_classes:
        _labels(front, index, _columns(front, words[0], pairs, pairs + 1), spec.num_classes)
        inputs.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["labels"]))
        for node in graph.node:
            node.input[:] = [LABELS if name == "label" else name for name in node.input]
    for value in graph.input:  # what was an input stays a value with a name, a type and a shape
        value.name = LABELS if value.name == "label" else value.name
        graph.value_info.append(value)
    nodes = [*front.nodes, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.initializer.extend(front.constants.values())
    graph.input.extend(inputs)


def body(model: ModelProto) -> bytes:
    """The part of a model from the latents on: it takes `z` and perhaps `label`, as if no seed had been added."""
    has_classes = any(value.name == "label" for value in model.graph.input)
    names = [LATENTS, LABELS] if has_classes else [LATENTS]
    part = onnx.utils.Extractor(model).extract_model(names, [value.name for value in model.graph.output])
    for value in part.graph.input:
        value.name = "label" if value.name == LABELS else value.name
    for node in part.graph.node:
        node.input[:] = ["label" if name == LABELS else name for name in node.input]
    content: bytes = part.SerializeToString()
    return content


def front(model: ModelProto) -> bytes:
    """The part of a model that makes latents, and labels if it has classes; these are its outputs."""
    inputs = [value.name for value in model.graph.input]
    names = [LATENTS, LABELS] if "label" in inputs else [LATENTS]
    content: bytes = onnx.utils.Extractor(model).extract_model(inputs, names).SerializeToString()
    return content


class _Front:
    """The nodes that are put before a graph."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def __call__(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add a node; the name of its result."""
        name = f"{_PREFIX}{operator}_{sum(node.op_type == operator for node in self.nodes)}"
        out = out or name
        self.nodes.append(helper.make_node(operator, list(inputs), [out], name=name, **attributes))
        return out

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        """Add a constant, once; its name."""
        name = _PREFIX + name
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name


def _threefry(front: _Front, index: str, counters: list[int]) -> tuple[str, str]:
    """Two random words, int64 (n, len(counters)) from 0 to 2^32 - 1, for each image and each second counter word."""

    def word(name: str, value: int) -> str:
        return front.constant(name, np.int64(value))

    mask = word("mask", (1 << 32) - 1)
    k0, k1 = front("BitwiseAnd", "seed", mask), front("Div", "seed", word("2^32", 1 << 32))  # a seed is never negative
    keys = (k0, k1, front("BitwiseXor", front("BitwiseXor", k0, k1), word("parity", PARITY)))
    column = front("Unsqueeze", index, front.constant("axis1", np.array([1], np.int64)))
    x0 = front("Add", column, k0)  # (n, 1)
    x1 = front("BitwiseAnd", front("Add", front.constant("counters", np.array([counters], np.int64)), k1), mask)
    for number in range(ROUNDS):
        x0 = front("BitwiseAnd", front("Add", x0, x1), mask)  # (n, counters)
        distance = ROTATIONS[number % 8]
        left = front("Mul", x1, word(f"2^{distance}", 1 << distance))  # below 2^61
        right = front("Div", x1, word(f"2^{32 - distance}", 1 << (32 - distance)))
        x1 = front("BitwiseXor", front("BitwiseAnd", front("Add", left, right), mask), x0)
        if number % 4 == 3:
            step = number // 4 + 1
            x0 = front("BitwiseAnd", front("Add", x0, keys[step % 3]), mask)
            x1 = front("Add", front("Add", x1, keys[(step + 1) % 3]), word(f"step{step}", step))
            x1 = front("BitwiseAnd", x1, mask)
    return x0, x1


def _columns(front: _Front, value: str, first: int, end: int) -> str:
    ends = [front.constant(f"column{at}", np.array([at], np.int64)) for at in (first, end)]
    return front("Slice", value, *ends, front.constant("axis1", np.array([1], np.int64)))


def _normals(front: _Front, x0: str, x1: str, latent_dim: int) -> None:
    """Box and Muller: words, int64 (n, pairs), to `LATENTS`."""

    def number(name: str, value: float) -> str:
        return front.constant(name, np.float64(value))

    low = front.constant("2^8", np.int64(1 << 8))
    high0, high1 = (front("Cast", front("Div", x, low), to=TensorProto.DOUBLE) for x in (x0, x1))
    u1 = front("Mul", front("Add", high0, number("1.0", 1.0)), number("2^-24", 2.0**-24))  # in (0, 1]
    radius = front("Sqrt", front("Mul", front("Log", u1), number("-2.0", -2.0)))
    angle = front("Mul", high1, number("2^-23pi", math.pi * 2.0**-23))
    last = front.constant("axis2", np.array([2], np.int64))
    # The cosine is the sine a quarter turn on: onnxruntime 1.20 has no Cos of float64.
    angles = (front("Add", angle, number("pi/2", math.pi / 2)), angle)
    both = [front("Unsqueeze", front("Mul", radius, front("Sin", each)), last) for each in angles]
    shape = front.constant("shape", np.array([0, latent_dim + latent_dim % 2], np.int64))  # 0: as many rows
    z = front("Reshape", front("Concat", *both, axis=2), shape)
    if latent_dim % 2:
        z = _columns(front, z, 0, latent_dim)
    front("Cast", z, out=LATENTS, to=TensorProto.FLOAT)


def _labels(front: _Front, index: str, word: str, num_classes: int) -> None:
    """Words, int64 (n, 1), and the input `label` to `LABELS`."""
    zero, one = (front.constant(name, np.int64(value)) for name, value in (("zero", 0), ("one", 1)))
    scaled = front("Mul", word, front.constant("classes", np.int64(num_classes)))
    flat = front.constant("flat", np.array([0], np.int64))
    drawn = front("Reshape", front("Div", scaled, front.constant("2^32", np.int64(1 << 32))), flat)
    # One more label, "draw it": with none asked for there is something to take, and nothing is divided by 0.
    asked = front("Concat", "label", front.constant("draw", np.array([-1], np.int64)), axis=0)
    turn = front("Mod", index, front("Max", front("Size", "label"), one))
    each = front("Gather", asked, turn)
    front("Where", front("Less", each, zero), drawn, each, out=LABELS)
