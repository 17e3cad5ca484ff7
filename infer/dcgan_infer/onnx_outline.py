"""What an ONNX file says it is made of, read without the onnx package and without running anything.

An ONNX file is one protobuf message, ModelProto. Of its fields (onnx.proto:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) only those below are looked at, by the wire format
(https://protobuf.dev/programming-guides/encoding/). The file may be hostile: every length is held against what is
there, and the number of fields and the depth of graphs in graphs are bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from .contract.errors import ModelError

# Field numbers of onnx.proto.
_IR_VERSION, _GRAPH, _OPSET_IMPORT, _FUNCTIONS = 1, 7, 8, 25  # ModelProto
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2  # OperatorSetIdProto
_GRAPH_NODE, _FUNCTION_NODE = 1, 7  # GraphProto, FunctionProto
_INITIALIZER, _DATA_TYPE = 5, 2  # GraphProto, TensorProto
_OP_TYPE, _ATTRIBUTE, _DOMAIN = 4, 5, 7  # NodeProto
_SUBGRAPHS = (6, 11)  # AttributeProto: one graph, several graphs
# Wire types of protobuf; 3 and 4 are the groups of its first version, which ONNX has none of.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_MOST_FIELDS = 1_000_000  # of which a generator has some hundreds; keeps a file of nothing but fields to some seconds
_DEEPEST = 16
_LONGEST_NAME = 200  # of an operator or a domain

INT8, FLOAT16 = 3, 10  # of TensorProto.DataType

STANDARD_DOMAINS = ("", "ai.onnx")  # two names of the same


@dataclass(frozen=True)
class Outline:
    """What an ONNX file says of itself.

    Attributes:
        ir_version: of the file format.
        opsets: version of the operators, by domain.
        operators: how often each occurs, by domain and name, in graphs inside of operators and in functions too.
        weight_types: of the main graph's initializers, as TensorProto.DataType numbers them.
    """

    ir_version: int
    opsets: dict[str, int]
    operators: dict[tuple[str, str], int] = field(default_factory=dict)
    weight_types: frozenset[int] = frozenset()

    @property
    def custom(self) -> list[str]:
        """Operators that are not of the ONNX standard, as `domain.name`."""
        return sorted(f"{domain}.{name}" for domain, name in self.operators if domain not in STANDARD_DOMAINS)


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
        self._weight_types: set[int] = set()

    def model(self, message: memoryview) -> Outline:
        ir_version, opsets, graphs = 0, {}, 0
        for number, value in self._fields(message):
            if number == _IR_VERSION:
                ir_version = _whole(value)
            elif number == _OPSET_IMPORT:
                domain, version = self._opset(_message(value))
                opsets[domain] = version
            elif number == _GRAPH:
                graphs += 1
                self._nodes(_message(value), _GRAPH_NODE, 0)
                self._weights(_message(value))
            elif number == _FUNCTIONS:
                self._nodes(_message(value), _FUNCTION_NODE, 0)
        if not (ir_version and opsets and graphs):
            raise ModelError("it is no ONNX file: it has no IR version, no opset or no graph")
        operators = dict(sorted(self._operators.items()))
        return Outline(ir_version, dict(sorted(opsets.items())), operators, frozenset(self._weight_types))

    def _opset(self, message: memoryview) -> tuple[str, int]:
        domain, version = "", 0
        for number, value in self._fields(message):
            if number == _OPSET_DOMAIN:
                domain = _name(value)
            elif number == _OPSET_VERSION:
                version = _whole(value)
        return domain, version

    def _weights(self, graph: memoryview) -> None:
        for number, value in self._fields(graph):
            if number == _INITIALIZER:
                self._weight_types |= {
                    _whole(kind) for part, kind in self._fields(_message(value)) if part == _DATA_TYPE
                }

    def _nodes(self, message: memoryview, node: int, depth: int) -> None:
        """Count the nodes of a graph or a function, and those of the graphs inside of them."""
        if depth > _DEEPEST:
            raise ModelError(f"its graphs are nested more than {_DEEPEST} deep")
        for number, value in self._fields(message):
            if number != node:
                continue
            domain, name = "", ""
            for part, inner in self._fields(_message(value)):
                if part == _OP_TYPE:
                    name = _name(inner)
                elif part == _DOMAIN:
                    domain = _name(inner)
                elif part == _ATTRIBUTE:
                    for kind, graph in self._fields(_message(inner)):
                        if kind in _SUBGRAPHS:
                            self._nodes(_message(graph), _GRAPH_NODE, depth + 1)
            self._operators[domain, name] += 1

    def _fields(self, message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Number and value of each field: an int, or the bytes of what has a length or a fixed size."""
        at = 0
        while at < len(message):
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ModelError(f"it has more than {_MOST_FIELDS:,} fields; no generator has")
            key, at = _varint(message, at)
            number, wire = key >> 3, key & 7
            if number == 0:
                raise ModelError("it is no ONNX file: a field has the number 0")
            if wire == _VARINT:
                value, at = _varint(message, at)
                yield number, value
                continue
            if wire == _BYTES:
                size, at = _varint(message, at)
            elif wire in (_FIXED64, _FIXED32):
                size = 8 if wire == _FIXED64 else 4
            else:
                raise ModelError(f"it is no ONNX file: a field has the wire type {wire}")
            if size > len(message) - at:
                raise ModelError(
                    f"it is truncated or no ONNX file: a field has {size} bytes, {len(message) - at} are left"
                )
            yield number, message[at : at + size]
            at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends; ten bytes hold 64 bits."""
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + place + 1
    raise ModelError("it is truncated or no ONNX file: a number does not end")


def _whole(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ModelError("it is no ONNX file: a version is no number")
    return value


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ModelError("it is no ONNX file: a number stands where a part should be")
    return value


def _name(value: int | memoryview) -> str:
    try:
        name = bytes(_message(value)[: _LONGEST_NAME + 1]).decode()
    except UnicodeDecodeError:
        name = "\0"
    if len(name) > _LONGEST_NAME or not name.isprintable():  # it goes to a terminal
        raise ModelError("it is no ONNX file: the name of an operator or a domain is no plain text")
    return name
