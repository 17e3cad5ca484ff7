"""A module that is a chain of known layers, as that list of layers.

`torch.export` runs the module once and writes down its operators: whatever its Python looks like, what is left is a
graph. If that graph is one straight line from the latent to the image, through operators that the spec has layers for,
the network can be rewritten like our own. It is used only after it gave the module's own images in float64.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import itertools
import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from dcgan_infer.contract.errors import SpecError
from dcgan_infer.contract.layers import (
    OUTPUTS,
    Activate,
    Activation,
    BatchNorm,
    Conv,
    ConvTranspose,
    Layer,
    Linear,
    Unflatten,
    Upsample,
)
from dcgan_infer.contract.spec import GeneratorSpec

from .networks import Generator

# Largest difference from the module's images in float64, in units of their largest value: the same sums, perhaps in
# another order.
TOLERANCE = 1e-12
_BATCHES = (1, 2, 5)
_LONGEST_NAME = 150  # what a spec takes, less a number
_FARTHEST = 6.0  # |z|: beyond 6 standard deviations a value is drawn once in 5e8

# Operators that move no value.
_SAME = frozenset(
    "detach clone contiguous alias dropout feature_dropout alpha_dropout to _to_copy type_as lift_fresh".split()
)
# Those that only give the values of each image another shape, in the same order.
_RESHAPES = frozenset(
    "view reshape _unsafe_view view_as unflatten flatten unsqueeze squeeze expand slice select".split()
)


@dataclass(frozen=True)
class Traced:
    """What `torch.export` says of a module.

    Attributes:
        output: the function that gives the images, tanh or sigmoid; None where it is another operator.
        layers: in order, empty if it is no chain of known layers.
        tensors: names in the module's state dict, by those in the chain's (`main.0.weight`).
        reason: why there are no layers, for people.
    """

    output: Activation | None
    layers: tuple[Layer, ...] = ()
    tensors: Mapping[str, str] | None = None
    reason: str = ""


class _NoChainError(Exception):
    """The graph is no chain of known layers; says why."""


def trace(module: nn.Module, example: tuple[Tensor, ...], prefix: str = "") -> Traced:
    """What a module does with its inputs.

    Args:
        module: in eval mode.
        example: its inputs, at least two images: z (N, latent_dim), and perhaps labels.
        prefix: what the names of all its tensors begin with; layers are named without it.
    """
    try:
        program = _export(module, example)
    except Exception as error:  # torch.export raises whatever the module's code stumbles on
        return Traced(None, reason=f"torch.export stops at {type(error).__name__}")
    output = _output(program)
    try:
        layers, tensors = _Chain(program, prefix).walk()
    except _NoChainError as error:
        return Traced(output, reason=str(error))
    return Traced(output, layers, tensors)


def chain_of(module: nn.Module, spec: GeneratorSpec, tensors: Mapping[str, str]) -> Generator | None:
    """The module's weights in a `Generator` of the spec's layers, if that gives the same images; else None.

    Args:
        module: in eval mode, float32, on the CPU; unconditional.
        spec: with the layers that were traced.
        tensors: names in the module's state dict, by those in the chain's.
    """
    state = module.state_dict()
    try:
        weights = {name: state[source].detach().clone() for name, source in tensors.items()}
        chain = Generator.with_weights(spec, weights).requires_grad_(False)
        return chain if _is_equal(module, chain, spec.latent_dim) else None
    except (AttributeError, KeyError, RuntimeError, SpecError):  # names or shapes that make no Generator
        return None


def _is_equal(module: nn.Module, chain: Generator, latent_dim: int) -> bool:
    right, ours = copy.deepcopy(module).double(), copy.deepcopy(chain).double()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for batch in _BATCHES:
            z = torch.randn(batch, latent_dim, generator=random, dtype=torch.float64)
            for latents in (z, z * (_FARTHEST / z.abs().max())):
                expected, found = right(latents), ours(latents)
                if expected.shape != found.shape or not expected.isfinite().all():
                    return False
                if (expected - found).abs().max() > TOLERANCE * max(1.0, expected.abs().max().item()):
                    return False
    return True


def _export(module: nn.Module, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    with torch.no_grad(), _silence():
        try:
            return torch.export.export(module, example, strict=False)
        except Exception:  # as above; what one way stumbles on, the other may take
            return torch.export.export(module, example, strict=True)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without what torch.export says where it stops: that is no failure here."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as said:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(said):
                yield
    finally:
        logging.disable(before)


def _name(node: Node) -> str:
    """Of a node's operator, without namespace, overload and the underscore of what works in place."""
    if node.target is operator.getitem:
        return "getitem"
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    return name.rstrip("_") if not name.startswith("_") else name


def _shape(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        raise _NoChainError(f"{_name(node)} gives several values")
    return tuple(value.shape)


def _output(program: torch.export.ExportedProgram) -> Activation | None:
    """The function whose values are the images."""
    (results,) = program.graph.output_node().args
    node = results[0] if isinstance(results, tuple | list) and len(results) == 1 else None
    while isinstance(node, Node) and node.op == "call_function" and _name(node) in _SAME | _RESHAPES | {"permute"}:
        node = node.args[0]
    name = _name(node) if isinstance(node, Node) and node.op == "call_function" else ""
    return Activation(name) if name in OUTPUTS else None


class _Chain:
    """Walks a graph along its one value, from the latent to the image."""

    def __init__(self, program: torch.export.ExportedProgram, prefix: str) -> None:
        signature = program.graph_signature
        self.sources = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.prefix = prefix
        self.inputs = [
            node for node in program.graph.nodes if node.op == "placeholder" and node.name in signature.user_inputs
        ]
        self.layers: list[Layer] = []
        self.tensors: dict[str, str] = {}
        self.names = {source.removeprefix(prefix).partition(".")[0] for source in self.sources.values()}
        self.taken: set[str] = set()
        self.shape: tuple[int, ...] = ()  # of one image's values, after the last layer

    def walk(self) -> tuple[tuple[Layer, ...], dict[str, str]]:
        if len(self.inputs) != 1:
            raise _NoChainError("it has more than one input")
        node = self.inputs[0]
        batch, *features = _shape(node)
        self.shape = tuple(features)
        while True:
            users = [user for user in node.users if "assert" not in str(user.target)]
            if len(users) != 1:
                raise _NoChainError(f"the value of {node.name} is used {len(users)} times")
            user = users[0]
            if user.op == "output":
                break
            taken: list[Node] = []
            torch.fx.node.map_arg((user.args, user.kwargs), taken.append)
            if user.op != "call_function" or taken.count(node) != 1:
                raise _NoChainError(f"{user.name} is no known layer")
            if _name(user) != "getitem" and _shape(user)[:1] != (batch,):
                raise _NoChainError(f"{user.name} mixes the images of a batch")
            self.read(user, node)
            node = user
        self.reshape(_shape(node)[1:])
        # An activation and a reshape may change places; then the list ends with what gives the range of the values.
        if len(self.layers) > 1 and isinstance(self.layers[-1], Unflatten) and isinstance(self.layers[-2], Activate):
            self.layers[-2:] = reversed(self.layers[-2:])
        return tuple(self.layers), self.tensors

    def reshape(self, shape: tuple[int, ...]) -> None:
        """Make the values of this shape, if they are not."""
        if shape == self.shape:
            return
        if len(self.shape) != 1 or len(shape) != 3:
            raise _NoChainError(f"values of shape {self.shape} become {shape}")
        self.layers.append(Unflatten(self.fresh("unflatten"), (shape[0], shape[1], shape[2])))
        self.shape = shape

    def fresh(self, kind: str) -> str:
        """A name for a layer without tensors."""
        names = (f"{kind}{number}" for number in itertools.count(1))
        name = next(name for name in names if name not in self.taken | self.names)
        self.taken.add(name)
        return name

    def read(self, node: Node, value: Node) -> None:
        name = _name(node)
        arguments = _arguments(node)
        if (arguments["mat1"] if name == "addmm" else node.args[0]) is not value:
            raise _NoChainError(f"{node.name} takes the value elsewhere than first")
        if name == "getitem":
            if node.args[1] != 0:
                raise _NoChainError(f"{node.name} takes another result than the first")
            return
        if name in _SAME:
            if arguments.get("train"):
                raise _NoChainError(f"{node.name} drops values")
            if value.meta["val"].dtype != node.meta["val"].dtype or _shape(value) != _shape(node):
                raise _NoChainError(f"{node.name} changes the type of the values")
            return
        if name in _RESHAPES:
            if value.meta["val"].numel() != node.meta["val"].numel():
                raise _NoChainError(f"{node.name} takes some of the values")
            return
        reader = _READERS.get(name)
        if reader is None:
            raise _NoChainError(f"{node.name} is no known layer")
        self.reshape(_shape(value)[1:])
        for layer, tensors in reader(node, arguments, _shape(value)):
            sources = {tensor: self.source(source) for tensor, source in tensors.items() if source is not None}
            kind = "activation" if isinstance(layer, Activate) else type(layer).__name__.lower()
            name = self.name(next(iter(sources.values())), kind) if sources else self.fresh(kind)
            self.layers.append(dataclasses.replace(layer, name=name))
            self.tensors |= {f"{name}.{tensor}": source for tensor, source in sources.items()}
        self.shape = _shape(node)[1:]

    def source(self, node: Any) -> str:
        """The state dict's name of a tensor."""
        name = self.sources.get(node.name) if isinstance(node, Node) else None
        if name is None:
            raise _NoChainError(f"{node} is computed, and is no tensor of the state dict")
        return str(name)

    def name(self, source: str, kind: str) -> str:
        """Of a layer, after its first tensor; another one if that is taken, or means another thing in a `Generator`."""
        called = source.removeprefix(self.prefix).rpartition(".")[0]
        if not called or len(called) > _LONGEST_NAME or not Generator.can_name(called):
            return self.fresh(kind)
        names = itertools.chain([called], (f"{called}_{number}" for number in itertools.count(2)))
        unique = next(name for name in names if name not in self.taken)
        self.taken.add(unique)
        return unique


def _arguments(node: Node) -> dict[str, Any]:
    """A node's arguments by the operator's own names, with its defaults."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    names = [argument.name for argument in schema.arguments]
    defaults = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    return defaults | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


# A layer without its name yet, and the nodes of its tensors.
_Reading = list[tuple[Layer, dict[str, Any]]]


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    if not all(isinstance(one, int) for one in values):
        raise _NoChainError("sizes that are not numbers")
    return (values[0], values[-1])


def _of(node: Any) -> tuple[int, ...]:
    if not isinstance(node, Node):
        raise _NoChainError("a tensor that is none")
    return _shape(node)


def _linear(node: Node, arguments: dict[str, Any], shape: tuple[int, ...]) -> _Reading:
    weight, bias = arguments["weight"], arguments["bias"]
    outputs, inputs = _of(weight)
    if len(shape) != 2:
        raise _NoChainError(f"{node.name} works on maps")
    return [(Linear("", inputs, outputs, bias is not None), {"weight": weight, "bias": bias})]


def _product(node: Node, arguments: dict[str, Any], shape: tuple[int, ...]) -> _Reading:
    """mm, matmul, or addmm with factors of 1, by a transposed weight."""
    second = arguments.get("mat2", arguments.get("other"))
    if not isinstance(second, Node) or _name(second) not in ("t", "transpose", "permute", "numpy_T"):
        raise _NoChainError(f"{node.name} is no linear layer")
    if arguments.get("alpha", 1) != 1 or arguments.get("beta", 1) != 1 or len(_shape(second)) != 2:
        raise _NoChainError(f"{node.name} is no linear layer")
    bias = arguments["self"] if _name(node) == "addmm" else None
    return _linear(node, {"weight": second.args[0], "bias": bias}, shape)


def _convolution(node: Node, arguments: dict[str, Any], shape: tuple[int, ...]) -> _Reading:  # noqa: ARG001
    weight, bias = arguments["weight"], arguments["bias"]
    if arguments["groups"] != 1 or _pair(arguments["dilation"]) != (1, 1):
        raise _NoChainError(f"{node.name} has groups or a dilation")
    first, second, *kernel = _of(weight)
    stride, padding = _pair(arguments["stride"]), arguments["padding"]
    if isinstance(padding, str):
        if padding == "same" and any(size % 2 == 0 for size in kernel):
            raise _NoChainError(f"{node.name} pads one side more than the other")
        padding = [(size - 1) // 2 if padding == "same" else 0 for size in kernel]
    layer: Layer = Conv("", second, first, _pair(kernel), stride, _pair(padding), bias is not None)
    if arguments.get("transposed", "transpose" in _name(node)):
        more = _pair(arguments["output_padding"])
        layer = ConvTranspose("", first, second, _pair(kernel), stride, _pair(padding), more, bias is not None)
    return [(layer, {"weight": weight, "bias": bias})]


def _batch_norm(node: Node, arguments: dict[str, Any], shape: tuple[int, ...]) -> _Reading:
    weight, bias = arguments["weight"], arguments["bias"]
    mean, variance = arguments["running_mean"], arguments["running_var"]
    if arguments.get("training") or mean is None or variance is None or (weight is None) != (bias is None):
        raise _NoChainError(f"{node.name} is no BatchNorm in eval mode")
    layer = BatchNorm("", shape[1], arguments["eps"], weight is not None)
    return [(layer, {"running_mean": mean, "running_var": variance, "weight": weight, "bias": bias})]


def _upsample(node: Node, arguments: dict[str, Any], shape: tuple[int, ...]) -> _Reading:  # noqa: ARG001
    after = _shape(node)
    if len(shape) != 4 or any(large % small for large, small in zip(after[2:], shape[2:], strict=True)):
        raise _NoChainError(f"{node.name} enlarges by no whole factor")
    return [(Upsample("", (after[2] // shape[2], after[3] // shape[3])), {})]


def _activation(name: str, parameter: str = "", **expected: Any) -> Callable[..., _Reading]:
    """A reader of an activation, with the arguments that must have these values."""

    def read(node: Node, arguments: dict[str, Any], shape: tuple[int, ...]) -> _Reading:  # noqa: ARG001
        if any(arguments[key] != value for key, value in expected.items()):
            raise _NoChainError(f"{node.name} is another function than {name}")
        try:
            function = Activation(name, float(arguments[parameter])) if parameter else Activation(name)
        except SpecError as error:
            raise _NoChainError(str(error)) from None
        return [(Activate("", function), {})]

    return read


_READERS: dict[str, Callable[[Node, dict[str, Any], tuple[int, ...]], _Reading]] = {
    "linear": _linear,
    "addmm": _product,
    "mm": _product,
    "matmul": _product,
    "conv2d": _convolution,
    "conv_transpose2d": _convolution,
    "convolution": _convolution,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "upsample_nearest2d": _upsample,
    "_upsample_nearest_exact2d": _upsample,  # the same by whole factors
    "relu": _activation("relu"),
    "leaky_relu": _activation("leaky-relu", "negative_slope"),
    "elu": _activation("elu", "alpha", scale=1, input_scale=1),
    "softplus": _activation("softplus", "beta", threshold=20),
    "silu": _activation("silu"),
    "gelu": _activation("gelu", approximate="none"),
    "tanh": _activation("tanh"),
    "sigmoid": _activation("sigmoid"),
}
