"""The fused generator is the same function: in float64 to rounding, for any chain of layers and any statistics."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from chains import SCALES, dcgan_spec, inputs_of, specs, upsampling_spec, with_statistics
from exported import METADATA, generator_of, small_spec
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from planted_faults import trained_like

from dcgan.networks import Generator
from dcgan_export import exact, formats, onnx_file, parity
from dcgan_export.formats import Variant
from dcgan_export.fuse import fuse
from dcgan_export.stages import UnfusableError, phases_of
from dcgan_infer.contract.layers import Activate, Activation, BatchNorm, Linear, Unflatten
from dcgan_infer.contract.spec import GeneratorSpec, reference_spec


def without_end(generator: Generator) -> Generator:
    """The same without its last activation, under which differences would vanish."""
    changed = copy.deepcopy(generator)
    changed.get_submodule(generator.spec.layers[-1].name).forward = lambda x: x
    return changed


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(spec=specs(), scales=SCALES, spread=st.floats(0.0, 2.0), seed=st.integers(0, 1000))
def test_any_chain_keeps_its_images(spec: GeneratorSpec, scales: str, spread: float, seed: int) -> None:
    generator = with_statistics(spec, seed, scales, spread)
    inputs = inputs_of(spec)
    fused = fuse(generator)
    assert next(fused.parameters()).dtype == torch.float64
    last: Any = fused.stages[-1]
    last.activation = None
    if hasattr(last.product, "activation"):
        last.product.activation = None
    with torch.no_grad():
        right = without_end(generator)(*inputs)
        torch.testing.assert_close(fused(*inputs), right, rtol=1e-10, atol=1e-10 * float(right.abs().max() + 1))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    kernel=st.integers(1, 6),
    stride=st.integers(1, 4),
    padding=st.integers(-3, 5),
    side=st.integers(1, 6),
    more=st.integers(0, 5),
)
def test_the_phase_formula(kernel: int, stride: int, padding: int, side: int, more: int) -> None:
    """Of one side, by plain loops: output o gets input i by tap t where o = stride i + t - padding."""
    output = (side - 1) * stride - 2 * padding + kernel + more
    assume(output >= 1 and more < stride)
    x = torch.randn(side, dtype=torch.float64)
    weight = torch.randn(kernel, dtype=torch.float64)
    right = torch.zeros(output, dtype=torch.float64)
    for i in range(side):
        for t in range(kernel):
            if 0 <= stride * i + t - padding < output:
                right[stride * i + t - padding] += x[i] * weight[t]
    made = torch.zeros(-(-output // stride) * stride, dtype=torch.float64)
    for remainder, phase in enumerate(phases_of(kernel, stride, padding, side, output)):
        padded = torch.nn.functional.pad(x[None], (phase.before, phase.after))[0]
        count = len(made) // stride
        assert len(padded) - max(1, len(phase.taps)) + 1 == count
        for q in range(count):
            made[stride * q + remainder] = sum(padded[q + k] * weight[tap] for k, tap in enumerate(phase.taps))
    torch.testing.assert_close(made[:output], right)


@pytest.mark.parametrize(
    "part",
    [
        "classes.weight", "stages.0.product.weight", "stages.0.product.bias", "stages.0.gain",
        "stages.1.product.convs.0.weight", "stages.1.bias_map", "stages.2.product.convs.3.weight", "stages.2.bias_map",
        "stages.3.product.weight", "stages.3.bias_map",
    ],
)  # fmt: skip
def test_that_comparison_sees_a_small_change(part: str) -> None:
    generator = with_statistics(small_spec("elu", num_classes=3), 1, "mixed")
    fused = fuse(generator)
    with torch.no_grad():
        fused.state_dict()[part].mul_(1 + 1e-5)
        inputs = inputs_of(generator.spec)
        assert (fused(*inputs) - generator(*inputs)).abs().max() > 1e-9


def test_positive_scales_leave_no_gain_behind() -> None:
    for activation, scales, has_gain in (
        ("relu", "positive", False),
        ("leaky-relu:0.2", "positive", False),
        ("relu", "negative", False),  # a sign that a whole channel shares goes into the next weights
        ("relu", "mixed", True),
        ("elu", "positive", True),
    ):
        fused = fuse(with_statistics(small_spec(activation), 0, scales))
        assert ("stages.0.gain" in fused.state_dict()) == has_gain, (activation, scales)


def test_norms_before_activations_leave_no_map_and_no_gain_behind() -> None:
    for spec in (dcgan_spec(16, ngf=8), upsampling_spec(16, width=8)):
        names = fuse(trained_like(spec)).state_dict()
        assert not [name for name in names if "map" in name or "gain" in name]


def test_fusing_changes_nothing_in_the_generator() -> None:
    generator = generator_of()
    before = copy.deepcopy(generator.state_dict())
    fused = fuse(generator)
    assert not fused.training
    assert next(fused.parameters()).dtype == torch.float32
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


def test_labels_are_asked_for_as_before() -> None:
    fused = fuse(Generator(reference_spec(num_classes=3)).eval())
    with pytest.raises(ValueError, match="is conditional"):
        fused(torch.randn(2, 100))


@pytest.mark.parametrize(
    "layers",
    [
        (Linear("l", 4, 12), Activate("a", Activation("relu")), Activate("b", Activation("tanh"))),
        (BatchNorm("n", 4), Linear("l", 4, 12), Activate("b", Activation("tanh"))),
        (Linear("l", 4, 12), Activate("b", Activation("tanh")), BatchNorm("n", 12)),
    ],
)
def test_what_has_no_normal_form_says_so(layers: tuple[Linear, ...]) -> None:
    spec = GeneratorSpec(4, (3, 2, 2), layers=(*layers, Unflatten("u", (3, 2, 2))))
    with pytest.raises(UnfusableError):
        fuse(Generator(spec).eval())


@pytest.mark.parametrize("activation", ["relu", "leaky-relu:0.2", "elu:0.5", "softplus:2", "silu", "gelu"])
@pytest.mark.parametrize("format_name", list(formats.FORMATS))
@pytest.mark.parametrize("trained", [True, False])  # untrained scales are all positive, and leave no gain
def test_every_activation_in_every_format_passes_parity(
    format_name: str, activation: str, trained: bool, tmp_path: Path
) -> None:
    generator = generator_of(activation, trained)
    variant = Variant(format_name, optimize="fused").settled()
    module = formats.FORMATS[format_name].load_module()
    module.write(fuse(generator), generator.spec, tmp_path / "model", METADATA, variant)
    probes = exact.make_probes(generator, generator.spec)
    report = parity.compare(module.load(tmp_path / "model"), probes, generator.spec, variant)
    assert report.passed, report.table()


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("opset", [17, onnx_file.newest_opset()])
def test_the_graph_has_operators_that_every_runtime_has(opset: int, num_classes: int, tmp_path: Path) -> None:
    generator = Generator(small_spec("leaky-relu:0.2", num_classes)).eval()
    variant = Variant(opset=opset).settled()
    onnx_file.write(fuse(generator), generator.spec, tmp_path / "model.onnx", METADATA, variant)
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    assert {node.op_type for node in nodes} <= {
        "Gemm", "LeakyRelu", "Reshape", "Mul", "Conv", "Add", "Transpose", "Concat", "ConvTranspose", "Tanh",
    } | ({"Gather"} if num_classes else set())  # fmt: skip
    count = Counter(node.op_type for node in nodes)
    assert count["Conv"] == 5
    assert count["Gather"] == (1 if num_classes else 0)
