"""What an ONNX file says it is made of, read without the onnx package and without running anything.

An ONNX file is one protobuf message, ModelProto. Of its fields (onnx.proto:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) only those below are looked at, by the wire format
(https://protobuf.dev/programming-guides/encoding/). The file may be hostile: every length is held against what is
there, and the number of fields and the depth of graphs in graphs are bounded. A field that may stand once and stands
twice is refused: protobuf merges the two, and readers that don't would see another model than the one that runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from .contract.errors import ModelError

# Field numbers of onnx.proto.
_IR_VERSION, _GRAPH, _OPSET_IMPORT, _TRAINING, _FUNCTIONS = 1, 7, 8, 20, 25  # ModelProto
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2  # OperatorSetIdProto
_TRAINING_GRAPHS = (1, 2)  # TrainingInfoProto
_NODE, _INITIALIZER, _OUTPUT, _SPARSE_INITIALIZER = 1, 5, 12, 15  # GraphProto
_VALUE_NAME = 1  # ValueInfoProto
_FUNCTION_NODE, _FUNCTION_DEFAULT = 7, 11  # FunctionProto
_NODE_INPUT, _NODE_OUTPUT, _OP_TYPE, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7  # NodeProto
_ONE_TENSOR, _ONE_GRAPH, _ONE_SPARSE = 5, 6, 22  # AttributeProto
_TENSORS, _GRAPHS, _SPARSES = 10, 11, 23
_SPARSE_PARTS = (1, 2)  # SparseTensorProto
_DIMS, _DATA_TYPE, _TENSOR_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 13, 14  # TensorProto
_KEY, _VALUE = 1, 2  # StringStringEntryProto
# Wire types of protobuf; 3 and 4 are the groups of its first version, which ONNX has none of.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_MOST_FIELDS = 1_000_000  # of which a generator has some hundreds; keeps a file of nothing but fields to some seconds
_DEEPEST = 16
_LONGEST_NAME = 200  # of an operator or a domain
_LONGEST_LOCATION = 4096  # of a file beside it
_MOST_NUMBERS = 1 << 63  # of a tensor

FLOAT, INT8, FLOAT16 = 1, 3, 10  # of TensorProto.DataType
_FINEST_LAST = (INT8, FLOAT16)  # of others than these it is said that they are as fine as floats

STANDARD_DOMAINS = ("", "ai.onnx")  # two names of the same
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger"}  # operators that multiply by weights

_Parts = dict[int, list["int | memoryview"]]  # values of a message by field number


class _Tensor(NamedTuple):
    """A constant: as what its numbers are stored, and how many there are."""

    numbers: int
    kind: int


class _Node(NamedTuple):
    """An operator in the main graph."""

    name: str
    inputs: list[bytes]
    outputs: list[bytes]
    constants: list[_Tensor]  # that it holds itself, as Constant does


@dataclass(frozen=True)
class Outline:
    """What an ONNX file says of itself.

    Attributes:
        ir_version: of the file format.
        opsets: version of the operators, by domain.
        operators: how often each occurs, by domain and name, in graphs inside of operators and in functions too.
        external: names of other files in which it keeps numbers, as it spells them, sorted; of a tensor that names none
            an empty text.
        is_flat: whether all operators stand in the main graph, none in graphs inside of operators and in functions.
        nodes: of the main graph, in order.
        tensors: of the main graph, by name.
        outputs: names of what the main graph gives.
    """

    ir_version: int
    opsets: dict[str, int]
    operators: dict[tuple[str, str], int] = field(default_factory=dict)
    external: tuple[str, ...] = ()
    is_flat: bool = True
    nodes: tuple[_Node, ...] = ()
    tensors: dict[bytes, _Tensor] = field(default_factory=dict)
    outputs: tuple[bytes, ...] = ()

    @property
    def custom(self) -> list[str]:
        """Operators that are not of the ONNX standard, as `domain.name`."""
        return sorted(f"{domain}.{name}" for domain, name in self.operators if domain not in STANDARD_DOMAINS)

    def weights(self) -> list[tuple[int, int]]:
        """What the numbers that images are multiplied with are stored as, layer by layer.

        Those that a convolution or a matrix product takes on the way to an output, from a tensor, or from what is
        computed of tensors alone, such as levels times a step: then the largest of these counts. What nothing uses
        does not, whatever its name is. What graphs inside of operators do, and functions, is not followed: it counts as
        floats, more than all others.

        Returns:
            For each product its TensorProto.DataType and how many numbers it takes.
        Raises:
            ModelError: two values have one name, or an operator stands before one whose result it takes.
        """
        made_by: dict[bytes, int] = {}
        constant = {name: tensor for name, tensor in self.tensors.items() if name}
        for place, node in enumerate(self.nodes):
            for name in node.outputs:
                if name and (name in constant or name in made_by):
                    raise ModelError("it is no ONNX file: two of its values have one name")
                made_by[name] = place
            sources = [*node.constants, *(constant[name] for name in node.inputs if name in constant)]
            if all(name in constant for name in node.inputs if name):
                # Without sources: what makes numbers of nothing, in floats.
                constant |= dict.fromkeys(filter(None, node.outputs), _largest(sources) or _Tensor(0, FLOAT))
        live: set[int] = set()
        names = [name for name in self.outputs if name in made_by]
        while names:
            place = made_by[names.pop()]
            if place not in live:
                live.add(place)
                sources_made = [made_by[name] for name in self.nodes[place].inputs if name in made_by]
                if any(source >= place for source in sources_made):
                    raise ModelError("it is no ONNX file: its operators are not in the order in which they run")
                names += [name for name in self.nodes[place].inputs if name in made_by]
        found = [] if self.is_flat else [(FLOAT, _MOST_NUMBERS)]
        for place in sorted(live):
            node = self.nodes[place]
            if node.name in _PRODUCTS:
                tensor = _largest(constant[name] for name in node.inputs[:2] if name in constant)
                if tensor:
                    found.append((tensor.kind, tensor.numbers))
        return found


def _largest(tensors: Iterable[_Tensor]) -> _Tensor | None:
    """The one with the most numbers; of equal ones the finest."""
    return max(tensors, key=lambda each: (each.numbers, each.kind not in _FINEST_LAST, each.kind), default=None)


def read_outline(content: bytes) -> Outline:
    """Read the outline of an ONNX file.

    Args:
        content: the file's bytes; may be anything.
    Raises:
        ModelError: it is no ONNX file, or a truncated or hostile one.
    """
    return _Reader().model(memoryview(content))


class _Reader:
    def __init__(self) -> None:
        self._fields_left = _MOST_FIELDS
        self._operators: Counter[tuple[str, str]] = Counter()
        self._external: set[str] = set()
        self._is_flat = True

    def model(self, message: memoryview) -> Outline:
        model = self._parts(message)
        opsets = dict(sorted(self._opset(_message(value)) for value in model.get(_OPSET_IMPORT, ())))
        ir_version = _whole(_once(model, _IR_VERSION, 0))
        if not (ir_version and opsets and _GRAPH in model):
            raise ModelError("it is no ONNX file: it has no IR version, no opset or no graph")
        graph = self._parts(_message(_once(model, _GRAPH)))
        nodes = [self._node(_message(value), 0) for value in graph.get(_NODE, ())]
        tensors: dict[bytes, _Tensor] = {}
        for value in graph.get(_INITIALIZER, ()):
            name, tensor = self._tensor(_message(value))
            if name in tensors:
                raise ModelError("it is no ONNX file: two of its tensors have one name")
            tensors[name] = tensor
        for value in graph.get(_SPARSE_INITIALIZER, ()):
            self._sparse(_message(value))
        for value in model.get(_FUNCTIONS, ()):
            self._is_flat = False
            function = self._parts(_message(value))
            for inner in function.get(_FUNCTION_NODE, ()):
                self._node(_message(inner), 0)
            for inner in function.get(_FUNCTION_DEFAULT, ()):
                self._attribute(_message(inner), 0)
        for value in model.get(_TRAINING, ()):
            training = self._parts(_message(value))
            for number in _TRAINING_GRAPHS:
                for inner in training.get(number, ()):
                    self._graph(_message(inner), 0)
        outputs = (self._parts(_message(value)) for value in graph.get(_OUTPUT, ()))
        return Outline(
            ir_version,
            opsets,
            dict(sorted(self._operators.items())),
            tuple(sorted(self._external)),
            self._is_flat,
            tuple(nodes),
            tensors,
            tuple(bytes(_message(_once(output, _VALUE_NAME, _EMPTY))) for output in outputs),
        )

    def _opset(self, message: memoryview) -> tuple[str, int]:
        opset = self._parts(message)
        return _name(_once(opset, _OPSET_DOMAIN, _EMPTY)), _whole(_once(opset, _OPSET_VERSION, 0))

    def _graph(self, message: memoryview, depth: int) -> None:
        """Look at a graph that is not the main one: what is in it, and not what for."""
        if depth > _DEEPEST:
            raise ModelError(f"its graphs are nested more than {_DEEPEST} deep")
        self._is_flat = False
        graph = self._parts(message)
        for value in graph.get(_NODE, ()):
            self._node(_message(value), depth)
        for value in graph.get(_INITIALIZER, ()):
            self._tensor(_message(value))
        for value in graph.get(_SPARSE_INITIALIZER, ()):
            self._sparse(_message(value))

    def _node(self, message: memoryview, depth: int) -> _Node:
        """Count a node, and those of the graphs inside of it."""
        node = self._parts(message)
        domain, name = _name(_once(node, _DOMAIN, _EMPTY)), _name(_once(node, _OP_TYPE, _EMPTY))
        self._operators[domain, name] += 1
        inputs, outputs = (
            [bytes(_message(value)) for value in node.get(number, ())] for number in (_NODE_INPUT, _NODE_OUTPUT)
        )
        constants = [tensor for value in node.get(_ATTRIBUTE, ()) for tensor in self._attribute(_message(value), depth)]
        return _Node(name, inputs, outputs, constants)

    def _attribute(self, message: memoryview, depth: int) -> list[_Tensor]:
        attribute = self._parts(message)
        for number in (_ONE_TENSOR, _ONE_GRAPH, _ONE_SPARSE):
            _once(attribute, number, _EMPTY)
        for number in (_ONE_GRAPH, _GRAPHS):
            for value in attribute.get(number, ()):
                self._graph(_message(value), depth + 1)
        for number in (_ONE_SPARSE, _SPARSES):
            for value in attribute.get(number, ()):
                self._sparse(_message(value))
        return [
            self._tensor(_message(value))[1]
            for number in (_ONE_TENSOR, _TENSORS)
            for value in attribute.get(number, ())
        ]

    def _sparse(self, message: memoryview) -> None:
        sparse = self._parts(message)
        for number in _SPARSE_PARTS:
            if number in sparse:
                self._tensor(_message(_once(sparse, number)))

    def _tensor(self, message: memoryview) -> tuple[bytes, _Tensor]:
        tensor = self._parts(message)
        locations = [self._entry(_message(value)) for value in tensor.get(_EXTERNAL_DATA, ())]
        if locations or _whole(_once(tensor, _DATA_LOCATION, 0)):
            self._external |= {value for key, value in locations if key == "location"} or {""}
        numbers = 1
        for value in tensor.get(_DIMS, ()):
            for size in [value] if isinstance(value, int) else _varints(value):
                numbers = min(numbers * size, _MOST_NUMBERS)
        kind = _whole(_once(tensor, _DATA_TYPE, 0)) & 0xFFFF_FFFF  # as protobuf cuts it
        return bytes(_message(_once(tensor, _TENSOR_NAME, _EMPTY))), _Tensor(numbers, kind)

    def _entry(self, message: memoryview) -> tuple[str, str]:
        entry = self._parts(message)
        return _name(_once(entry, _KEY, _EMPTY)), _name(_once(entry, _VALUE, _EMPTY), _LONGEST_LOCATION)

    def _parts(self, message: memoryview) -> _Parts:
        """Values of each field: an int, or the bytes of what has a length or a fixed size."""
        at, parts, end = 0, _Parts(), len(message)
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ModelError(f"it has more than {_MOST_FIELDS:,} fields; no generator has")
            key, at = message[at], at + 1
            if key >= 0x80:
                key, at = _varint(message, at - 1)
            number, wire = key >> 3, key & 7
            if not 0 < number < 1 << 29:  # protobuf cuts larger ones down, to fields that we would overlook
                raise ModelError(f"it is no ONNX file: a field has the number {number}")
            value: int | memoryview
            if wire == _VARINT:
                value, at = _varint(message, at)
            else:
                if wire == _BYTES:
                    size, at = (message[at], at + 1) if at < end and message[at] < 0x80 else _varint(message, at)
                elif wire in (_FIXED64, _FIXED32):
                    size = 8 if wire == _FIXED64 else 4
                else:
                    raise ModelError(f"it is no ONNX file: a field has the wire type {wire}")
                if size > end - at:
                    raise ModelError(f"it is truncated or no ONNX file: a field has {size} bytes, {end - at} are left")
                value = message[at : at + size]
                at += size
            parts.setdefault(number, []).append(value)
        return parts


_EMPTY = memoryview(b"")


def _once(parts: _Parts, number: int, default: int | memoryview = _EMPTY) -> int | memoryview:
    """The value of a field that may stand once."""
    values = parts.get(number)
    if values is None:
        return default
    if len(values) > 1:
        raise ModelError("it is no ONNX file that is read the same everywhere: a field stands twice")
    return values[0]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends; ten bytes hold 64 bits."""
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + place + 1
    raise ModelError("it is truncated or no ONNX file: a number does not end")


def _varints(message: memoryview) -> list[int]:
    """Numbers one after the other, as a repeated field may pack them."""
    at, found = 0, []
    while at < len(message):
        value, at = _varint(message, at)
        found.append(value)
    return found


def _whole(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ModelError("it is no ONNX file: a version is no number")
    return value


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ModelError("it is no ONNX file: a number stands where a part should be")
    return value


def _name(value: int | memoryview, longest: int = _LONGEST_NAME) -> str:
    try:
        name = bytes(_message(value)[: longest + 1]).decode()
    except UnicodeDecodeError:
        name = "\0"
    if len(name) > longest or not name.isprintable():  # it goes to a terminal
        raise ModelError("it is no ONNX file: the name of an operator, a domain or a file is no plain text")
    return name
