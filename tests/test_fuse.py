"""The fused generator is the same function: in float64 to rounding, for any network, statistics and activation."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from exported import ACTIVATIONS, METADATA, SCALES, generator_of, inputs_of, small_spec, with_statistics
from hypothesis import given, settings
from hypothesis import strategies as st

from dcgan.networks import Generator
from dcgan_export import exact, formats, onnx_file, parity
from dcgan_export.fuse import fuse
from dcgan_infer.contract.spec import Activation, GeneratorSpec


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    activation=st.sampled_from(ACTIVATIONS),
    latent_dim=st.integers(1, 9),
    num_classes=st.sampled_from([0, 1, 3]),
    channels=st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7)),
    image=st.sampled_from([(1, 4, 4), (1, 8, 8), (3, 8, 8), (1, 12, 12)]),
    scales=SCALES,
    spread=st.floats(0.0, 2.0),
    seed=st.integers(0, 1000),
)
def test_any_generator_keeps_its_images(
    activation: str,
    latent_dim: int,
    num_classes: int,
    channels: tuple[int, int, int],
    image: tuple[int, int, int],
    scales: str,
    spread: float,
    seed: int,
) -> None:
    spec = GeneratorSpec(
        latent_dim=latent_dim,
        num_classes=num_classes,
        image_shape=image,
        channels=channels,
        activation=Activation.parse(activation),
    )
    generator = with_statistics(spec, seed, scales, spread)
    inputs = inputs_of(spec)
    fused = fuse(generator)
    assert fused.linear1.weight.dtype == torch.float64
    with torch.no_grad():
        torch.testing.assert_close(fused(*inputs), generator(*inputs), rtol=0.0, atol=1e-10)


@pytest.mark.parametrize(
    "part",
    [
        "linear1.weight", "classes.weight", "conv1.weight", "conv2_eo.weight", "decon3.weight", "map1", "map2", "map3",
        "gain1.factor",
    ],
)  # fmt: skip
def test_that_comparison_sees_a_small_change(part: str) -> None:
    generator = with_statistics(small_spec("elu", num_classes=3), 1, "mixed")
    fused = fuse(generator)
    with torch.no_grad():
        fused.state_dict()[part].mul_(1 + 1e-6)
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
        assert ("gain1.factor" in fused.state_dict()) == has_gain, (activation, scales)


def test_fusing_changes_nothing_in_the_generator() -> None:
    generator = generator_of()
    before = copy.deepcopy(generator.state_dict())
    fused = fuse(generator)
    assert not fused.training
    assert fused.linear1.weight.dtype == torch.float32
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


def test_labels_are_asked_for_as_before() -> None:
    fused = fuse(Generator(GeneratorSpec(num_classes=3)).eval())
    with pytest.raises(ValueError, match="is conditional"):
        fused(torch.randn(2, 100))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("format_name", list(formats.FORMATS))
@pytest.mark.parametrize("trained", [True, False])  # untrained scales are all positive, and leave no gain
def test_every_activation_in_every_format_passes_parity(
    format_name: str, activation: str, trained: bool, tmp_path: Path
) -> None:
    generator = generator_of(activation, trained)
    module = formats.find(format_name).load_module()
    module.write(fuse(generator), generator.spec, tmp_path / "model", METADATA, formats.USUAL)
    report = parity.compare(module.load(tmp_path / "model"), exact.make_probes(generator, generator.spec))
    assert report.passed, report.table()


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("opset", [17, onnx_file.newest_opset()])
def test_the_graph_has_operators_that_every_runtime_has(opset: int, num_classes: int, tmp_path: Path) -> None:
    generator = Generator(small_spec("leaky-relu:0.2", num_classes)).eval()
    onnx_file.write(fuse(generator), generator.spec, tmp_path / "model.onnx", METADATA, formats.Variant(opset))
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    assert {node.op_type for node in nodes} <= {
        "Gemm", "LeakyRelu", "Reshape", "Mul", "Conv", "Add", "Transpose", "Concat", "ConvTranspose", "Tanh",
    } | ({"Gather"} if num_classes else set())  # fmt: skip
    count = Counter(node.op_type for node in nodes)
    assert count["Conv"] == 5
    assert count["Gather"] == (1 if num_classes else 0)
