"""Files that anybody may have sent, byte by byte at random: readers refuse them in a line, or read them, and end."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from dcgan_infer import shipped
from dcgan_infer.contract.errors import ModelError
from dcgan_infer.contract.golden import SUFFIX, parse_golden
from dcgan_infer.onnx_outline import read_outline

GOLDEN = shipped.path_of(shipped.DEFAULT, SUFFIX).read_bytes()
MODEL = shipped.path_of(shipped.DEFAULT, ".onnx").read_bytes()
HEAD, TAIL = MODEL[:3000], MODEL[-3000:]  # nodes come first, weights after them, and metadata last


def refusal_of_golden(content: bytes) -> str:
    try:
        parse_golden(content, Path("a.golden"))
    except ModelError as error:
        return str(error)
    return ""


def refusal_of_outline(content: bytes) -> str:
    try:
        read_outline(content).weights()
    except ModelError as error:
        return str(error)
    return ""


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    assert refusal_of_golden(content).count("\n") == 0
    assert refusal_of_golden(content) != ""
    assert refusal_of_outline(content).count("\n") == 0


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 1200), st.binary(min_size=1, max_size=12))
def test_a_golden_file_with_some_bytes_changed(at: int, noise: bytes) -> None:
    assert refusal_of_golden(GOLDEN[:at] + noise + GOLDEN[at + len(noise) :]).count("\n") == 0


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 2990), st.binary(min_size=1, max_size=12), st.sampled_from([HEAD, TAIL]))
def test_a_part_of_a_model_with_some_bytes_changed(at: int, noise: bytes, part: bytes) -> None:
    assert refusal_of_outline(part[:at] + noise + part[at + len(noise) :]).count("\n") == 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from([0x08, 0x0A, 0x12, 0x22, 0x2A, 0x32, 0x3A, 0x42, 0x5A]), st.binary(max_size=40)))
)
def test_fields_that_fit_the_wire_format(fields: list[tuple[int, bytes]]) -> None:
    """The tags of what is read, nested by chance: deeper than bytes at random come."""
    content = b""
    for tag, payload in fields:
        inner = content if len(content) < 100 else payload
        content += bytes((tag, len(inner))) + inner
    assert refusal_of_outline(content).count("\n") == 0
