"""int8 and fp16: the rewriting is exact, convolutions really run in 8 bits, what would change nothing is refused."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from chains import SCALES, dcgan_spec, inputs_of, specs, upsampling_spec, with_statistics
from exported import METADATA, export, generator_of, onnx_model, save, small_spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, numpy_helper

from dcgan.checkpoint import GeneratorCheckpoint
from dcgan.networks import Generator
from dcgan_export import formats, onnx_file, quantizable, quantize
from dcgan_export.formats import Variant
from dcgan_export.fuse import FEW_CHANNELS, PaddedConv, fuse
from dcgan_export.publish import publish
from dcgan_export.stages import Dense, UnfusableError, stages_of
from dcgan_infer import shipped
from dcgan_infer.contract.errors import ExportError, ParityError
from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.contract.layers import (
    SIGMOID,
    TANH,
    Activate,
    Activation,
    BatchNorm,
    Conv,
    ConvTranspose,
    Linear,
    Unflatten,
)
from dcgan_infer.contract.pixels import to_pictures, to_uint8
from dcgan_infer.contract.spec import OPTIMIZE_KEY, PRECISION_KEY, GeneratorSpec, reference_spec
from dcgan_infer.onnx_outline import read_outline
from dcgan_infer.verify import verify

OPSETS = range(onnx_file.OLDEST_OPSET, onnx_file.newest_opset() + 1)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(spec=specs(("relu", "relu", "leaky-relu:0.2")), scales=SCALES, seed=st.integers(0, 1000))
def test_the_form_to_be_rounded_is_the_same_function(spec: GeneratorSpec, scales: str, seed: int) -> None:
    generator = with_statistics(spec, seed, scales)
    stages = stages_of(generator)
    factors = {
        place: torch.rand(stage.shape[0], 1, 1, dtype=torch.float64) * 3 + 0.1
        for place, stage in enumerate(stages[:-1])
        if not isinstance(stages[place + 1].product, Dense)
    }
    inputs = inputs_of(spec)
    rewritten = quantizable._rewritten(generator, factors).eval()
    with torch.inference_mode():
        assert torch.allclose(rewritten(*inputs), generator(*inputs), rtol=0, atol=1e-10)


@functools.cache
def int8_model() -> ModelProto:
    """The shipped unconditional generator."""
    return onnx.load_from_string(shipped_as("int8"))


@functools.cache
def shipped_as(precision: str, image: str = "float", optimize: str | None = None) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        checkpoint = shipped.path_of("dcgan-mnist", ".safetensors")
        export(checkpoint, path, precision=precision, image=image, optimize=optimize)
        return path.read_bytes()


def images_of(content: bytes, z: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (images,) = session.run(["image"], {"z": z})
    return np.asarray(images)


def test_the_shipped_generator_is_off_by_less_than_a_grey_level_on_average() -> None:
    z = latents(3, 0, 256, 100)  # neither those of the calibration nor those of the parity
    levels = {name: to_uint8(images_of(shipped_as(name), z)).astype(int) for name in ("fp32", "fp16", "int8")}
    for name, limit in (("fp16", 0.02), ("int8", 1.0)):
        assert 0 < np.abs(levels[name] - levels["fp32"]).mean() < limit


def test_the_convolutions_run_in_8_bits(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file is for this machine
    onnxruntime.InferenceSession(shipped_as("int8"), options, providers=["CPUExecutionProvider"])
    count = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert count["QLinearConv"] == 5
    assert count["Conv"] == 0
    assert count["QuantizeLinear"] == 1  # what linear1 gives: the ones are appended to levels
    assert count["Pad"] == 1


def test_weights_leave_room_for_processors_that_add_in_16_bits() -> None:
    tensors = {tensor.name: tensor for tensor in int8_model().graph.initializer}
    kernels = [
        numpy_helper.to_array(t) for t in tensors.values() if t.data_type == TensorProto.INT8 and len(t.dims) == 4
    ]
    assert len(kernels) == 5
    assert max(np.abs(kernel.astype(int)).max() for kernel in kernels) == 63
    # Two products of 8-bit activations and 7-bit weights: what vpmaddubsw adds up.
    assert np.iinfo(np.int16).max >= 2 * 255 * 63


def test_with_vnni_the_latents_are_multiplied_in_8_bits_too(tmp_path: Path) -> None:
    content = shipped_as("int8", optimize="vnni")
    graph = onnx.load_from_string(content).graph
    count = Counter(node.op_type for node in graph.node)
    assert (count["MatMulInteger"], count["Gemm"]) == (1, 0)
    (levels,) = (
        numpy_helper.to_array(t).astype(int)
        for t in graph.initializer
        if t.data_type == TensorProto.INT8 and len(t.dims) == 2
    )
    assert (TensorProto.INT8, levels.size) in read_outline(content).weights()
    assert len(content) < len(shipped_as("int8")) + 2048  # the sixteenths are not in the file
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "optimised.onnx").graph
    assert not {"Round", "Div", "Unsqueeze"} & {node.op_type for node in loaded.node}  # but made when it is loaded
    (kernel,) = (
        numpy_helper.to_array(t).astype(int)
        for t in loaded.initializer
        if t.data_type == TensorProto.INT8 and t.dims[0] == 200
    )
    assert (kernel[::2] == levels).all()
    # A weight and its sixteenth are neighbours: what vpmaddubsw adds up.
    assert np.iinfo(np.int16).max >= 255 * np.abs(kernel).reshape(100, 2, -1).sum(1).max() > 30_000
    z = np.concatenate([latents(3, 0, 255, 100), np.full((1, 100), -5, np.float32)])
    right, *rounded = (
        to_uint8(images_of(each, z)).astype(int) for each in (shipped_as("fp32"), shipped_as("int8"), content)
    )
    plain, integer = (np.abs(each - right).mean() for each in rounded)
    assert 0 < integer < 1.1 * plain
    far = [images_of(content, np.full((1, 100), value, np.float32)) for value in (6.4, 6.74, 7, 8)]
    assert [bool((one == next_one).all()) for one, next_one in pairwise(far)] == [False, False, True]


@pytest.mark.parametrize("name", ["dcgan-mnist", "dcgan-mnist-conditional"])
def test_vnni_goes_with_seeds_pictures_and_opsets(name: str, tmp_path: Path) -> None:
    for opset, inputs in ((25, "z"), (18, "seed")):
        artifact = export(
            shipped.path_of(name, ".safetensors"),
            tmp_path / f"{opset}-{inputs}.onnx",
            precision="int8", optimize="vnni", image="uint8", opset=opset, inputs=inputs,
        )  # fmt: skip
        assert artifact.report.passed
        assert artifact.metadata[OPTIMIZE_KEY] == "vnni"


def test_an_int8_file_is_a_third_and_an_fp16_file_half() -> None:
    whole = len(shipped_as("fp32"))
    assert len(shipped_as("int8")) < whole / 3
    assert len(shipped_as("fp16")) < whole * 0.51


def test_a_rounding_that_is_too_coarse_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "_WEIGHT_LEVELS", 3)
    with pytest.raises(ParityError, match="grey levels on average, the limit is 2"):
        export(shipped.path_of("dcgan-mnist", ".safetensors"), tmp_path / "a.onnx", precision="int8")
    assert not list(tmp_path.iterdir())


def test_rounding_makes_up_for_what_it_takes_away() -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(2000, 12)) @ rng.normal(size=(12, 36))  # inputs that go together
    weight = rng.normal(size=(5, 4, 3, 3))
    steps = quantize._steps(weight, 63)
    size = steps.astype(float).reshape(5, 1, 1, 1)
    levels = quantize._compensated(weight, steps, np.cov(seen.T))
    nearest = np.rint(weight / size)
    assert levels.dtype == np.int8
    assert np.abs(levels).max() <= 63

    def error(rounded: np.ndarray) -> float:
        off = (weight - rounded * size).reshape(5, 36) @ (seen - seen.mean(0)).T
        return float(np.sqrt(np.mean(off**2)))

    assert error(levels) < error(nearest) / 2
    assert np.array_equal(quantize._compensated(weight, steps, np.eye(36)), nearest)  # nothing can make up for it
    never_changing = np.diag(np.linspace(-1e-16, 1e-16, 36))  # what a subtraction leaves of no variance
    assert np.array_equal(quantize._compensated(weight, steps, never_changing), nearest)


@pytest.mark.parametrize(("classes", "groups"), [(0, 4), (10, 4), (17, 1)])
def test_a_range_is_the_mean_of_groups_unless_classes_are_rare_in_them(classes: int, groups: int) -> None:
    generator = generator_of() if not classes else Generator(small_spec(num_classes=classes)).eval()
    module = quantizable._rewritten(generator, {})
    given = [quantizable._seeded(module.spec, first) for first in range(0, 1024, 64)]
    table = module.classes or torch.nn.Identity()
    first = torch.cat([module.stages[0](z, *map(table, label)) for z, *label in given])
    expected = first.amax((2, 3)).reshape(groups, -1, 8).amax(1).mean(0)
    assert torch.allclose(quantizable._bounds(module, range(1))[0][1], expected)


def test_leaky_channels_are_balanced_between_what_is_before_and_after() -> None:
    module = quantizable.quantizable(generator_of("leaky-relu", trained=False))
    low, high = module.ranges[2]
    assert high == 1.0
    assert low == pytest.approx(-0.1, abs=0.01)  # the root of the slope, 0.01: -10 before, for 1 above 0


STRIDED = GeneratorSpec(
    6,
    (1, 8, 8),
    layers=(
        Linear("l", 6, 128),
        Unflatten("u", (2, 8, 8)),
        Activate("a", Activation("relu")),
        Conv("c", 2, 4, (5, 3), (2, 2), (2, 1)),
        Activate("b", Activation("relu")),
        ConvTranspose("t", 4, 1, (4, 4), (2, 2), (1, 1)),
        Activate("tanh", TANH),
    ),
)


@pytest.mark.parametrize("spec", [small_spec(), upsampling_spec(8, nz=6, width=4), STRIDED])
def test_what_convolutions_see_is_what_they_take(spec: GeneratorSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizable, "_PLACES", 64)  # all that there are
    module = quantizable.quantizable(with_statistics(spec, 0, "positive")).double()
    assert module.seen
    for name, seen in module.seen.items():
        conv = module.get_submodule(name)
        assert isinstance(conv, PaddedConv | torch.nn.Conv2d)
        found: list[torch.Tensor] = []
        hook = conv.register_forward_hook(lambda _, __, result, found=found: found.append(result))
        for first in range(0, quantizable.CALIBRATION, quantizable._CHUNK):
            module(*quantizable._seeded(spec, first))
        hook.remove()
        weight = conv.weight.flatten(1)
        given = torch.cat(found) - (0 if conv.bias is None else conv.bias[:, None, None])
        assert torch.allclose(weight @ seen.mean, given.mean((0, 2, 3)), atol=1e-5), name
        variance = torch.einsum("oi,ij,oj->o", weight, seen.covariance, weight)
        assert torch.allclose(variance, given.var((0, 2, 3), correction=0), atol=1e-5), name


def test_wrong_ranges_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def far_too_fine(bounds: tuple[float, float]) -> quantize.Rounding:
        return quantize.Rounding(np.float32((bounds[1] - bounds[0]) / 2000), np.uint8(0))

    monkeypatch.setattr(quantize, "_rounding", far_too_fine)
    with pytest.raises(ParityError, match="grey levels on average"):
        export(shipped.path_of("dcgan-mnist", ".safetensors"), tmp_path / "a.onnx", precision="int8")


@pytest.fixture
def translated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's part of an export, which no opset changes, is done once a form."""
    translate = onnx_file._translate
    known: dict[tuple[object, ...], ModelProto] = {}

    def once(generator: torch.nn.Module, spec: GeneratorSpec) -> ModelProto:
        weights = tuple(float(tensor.double().sum()) for tensor in generator.state_dict().values())
        key = (type(generator), spec, weights)
        if key not in known:
            known[key] = translate(generator, spec)
        return copy.deepcopy(known[key])

    monkeypatch.setattr(onnx_file, "_translate", once)


@pytest.mark.usefixtures("translated_once")
@pytest.mark.parametrize("activation", ["relu", "leaky-relu", "elu"])
@pytest.mark.parametrize("precision", formats.PRECISIONS)
def test_every_precision_activation_and_opset_passes_or_says_why_not(
    precision: str, activation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "_LARGE", 16)  # the generator is a small one
    # With six channels and sharp weights, few bits are not enough; with initial ones they are.
    checkpoint = save(tmp_path / "digits.safetensors", activation, trained=precision == "fp32", shift=0.1)
    if precision == "int8" and activation == "elu":
        with pytest.raises(UnfusableError, match=r"int8 is for generators with ReLU.*take precision fp32 or fp16"):
            export(checkpoint, tmp_path / "a.onnx", precision=precision)
        return
    for opset in OPSETS:
        # Grey levels are the same few nodes in every opset.
        for image in formats.IMAGES if opset in (OPSETS[0], OPSETS[-1]) else ("float",):
            path = tmp_path / f"{opset}-{image}.onnx"
            if precision == "int8" and opset > 25:
                # onnxruntime 1.32 knows opset 28 and not its QuantizeLinear: it may refuse the file, and nothing else.
                try:
                    export(checkpoint, path, opset=opset, precision=precision, image=image)
                except ExportError as error:
                    refused = str(error)
                    if not refused.startswith("onnxruntime refuses the ONNX file; a lower --opset may do"):
                        raise
                continue
            artifact = export(checkpoint, path, opset=opset, precision=precision, image=image)
            assert artifact.report.passed
            assert artifact.metadata[PRECISION_KEY] == precision
            model = onnx.load(path)
            assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
            assert sum(node.op_type == "Pad" for node in model.graph.node) == (precision == "int8")


def test_grey_levels_are_those_of_the_floats(tmp_path: Path) -> None:
    z = latents(3, 0, 64, 100)
    grey = images_of(shipped_as("fp32", "uint8"), z)
    assert grey.dtype == np.uint8
    assert grey.shape == (64, 28, 28)
    right = to_uint8(images_of(shipped_as("fp32"), z))[:, 0]
    assert np.abs(grey.astype(int) - right).max() <= 1
    assert (grey != right).mean() < 1e-4
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(shipped_as("fp32", "uint8")).metadata_props}
    assert metadata["Image.NominalPixelRange"] == "NominalRange_0_255"


def test_a_conditional_generator_can_be_rounded(tmp_path: Path) -> None:
    checkpoint = shipped.path_of("dcgan-mnist-conditional", ".safetensors")
    export(checkpoint, tmp_path / "a.onnx", precision="int8", image="uint8")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    (images,) = session.run(None, {"z": latents(0, 0, 5, 100), "label": labels(0, 0, 5, 10)})
    assert images.shape == (5, 28, 28)


def test_int8_of_the_plain_form_is_refused() -> None:
    with pytest.raises(ExportError, match="int8 needs the fused form"):
        Variant(optimize="none", precision="int8").settled()


@pytest.mark.parametrize("variant", [Variant(), Variant(precision="fp16"), Variant("torchscript"), Variant("pt2")])
def test_vnni_is_for_int8(variant: Variant) -> None:
    with pytest.raises(ExportError, match=r"optimize vnni(, .*are for onnx only| is for precision int8; take that)"):
        replace(variant, optimize="vnni").settled()


@pytest.mark.parametrize("operator", ["Sigmoid", "Mul"])
def test_an_operator_that_nothing_rounds_is_refused(operator: str, tmp_path: Path) -> None:
    module = quantizable.quantizable(generator_of())
    onnx_file.write(module, small_spec(), tmp_path / "a.onnx", METADATA, Variant().settled())
    model = onnx.load(tmp_path / "a.onnx")
    _, node, *_ = (node for node in model.graph.node if node.op_type == "Transpose")  # the first is of a dense layer
    node.op_type = operator
    with pytest.raises(ExportError, match=f"int8 is not made for {operator}"):
        quantize.quantize(model, module)


def two_dense_spec() -> GeneratorSpec:
    """A linear layer with BatchNorm and ReLU, and then PyTorch-GAN's generator."""
    rest = upsampling_spec(16, 3, nz=24, width=16)
    before = (Linear("l0.0", 8, 24), BatchNorm("l0.1", 24), Activate("l0.2", Activation("relu")))
    return GeneratorSpec(8, rest.image_shape, layers=(*before, *rest.layers))


@pytest.mark.parametrize(
    "spec",
    [dcgan_spec(16, nz=8, ngf=16), dcgan_spec(16, nz=8, ngf=16, activation=Activation("leaky-relu", 0.2)),
     upsampling_spec(16, 3, nz=8, width=16), dcgan_spec(16, nz=8, ngf=16, nc=6), two_dense_spec()],
    ids=["dcgan", "leaky", "upsampling", "six channels", "two dense layers"],
)  # fmt: skip
@pytest.mark.parametrize("optimize", ["fused", "vnni"])
def test_the_convolutions_of_other_generators_run_in_8_bits(spec: GeneratorSpec, optimize: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = Generator(spec).eval()
    path = tmp_path / "a.onnx"
    variant = Variant(precision="int8", optimize=optimize).settled()
    onnx_file.write(quantizable.quantizable(generator), spec, path, METADATA, variant)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    count = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert count["MatMulInteger"] == (optimize == "vnni")
    assert count["QLinearConv"] == (8 if isinstance(spec.layers[-2], Conv) else 4)
    # The last layer stays in float32; one that gives many channels is four phases.
    assert (count["Conv"], count["ConvTranspose"]) == ((0, 1) if spec.image_shape[0] <= FEW_CHANNELS else (4, 0))
    z = latents(0, 0, 16, 8)
    (images,) = session.run(None, {"z": z})
    with torch.inference_mode():
        right = generator(torch.from_numpy(z)).numpy()
    assert 0 < np.abs(images - right).mean() < 0.02
    pictures = Variant(precision="int8", image="uint8").settled()
    onnx_file.write(quantizable.quantizable(generator), spec, path, METADATA, pictures)
    (images,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"z": z})
    assert 0 < np.abs(images.astype(float) - to_pictures(right)).mean() < 2.5


def test_int8_of_many_channels_is_verified(tmp_path: Path) -> None:
    spec = dcgan_spec(16, nz=8, ngf=64, nc=6)
    torch.manual_seed(0)
    generator = Generator(spec).eval()
    publish(GeneratorCheckpoint(generator, spec, generator, "", ""), tmp_path / "a.onnx", Variant(precision="int8"))
    in_floats = [numbers for kind, numbers in read_outline((tmp_path / "a.onnx").read_bytes()).weights() if kind == 1]
    assert in_floats == [64 * 6 * 2 * 2] * 4  # the last layer's phases
    (spec_check,) = (check for check in verify(tmp_path / "a.onnx", threads=1).checks if check.name == "spec")
    assert spec_check.outcome == "passed"


def test_int8_of_another_form_is_refused(tmp_path: Path) -> None:
    generator = generator_of()
    with pytest.raises(ExportError, match="the form that quantizable"):
        onnx_file.write(
            fuse(generator), generator.spec, tmp_path / "a.onnx", METADATA, Variant(precision="int8").settled()
        )


def test_a_norm_after_the_last_activation_has_no_form_to_be_rounded() -> None:
    layers = reference_spec(8, (1, 8, 8)).layers
    generator = Generator(GeneratorSpec(8, (1, 8, 8), layers=(*layers, BatchNorm("last", 1)))).eval()
    with pytest.raises(UnfusableError, match="a BatchNorm follows the last activation"):
        quantizable.quantizable(generator)


def test_halving_what_has_no_large_weights_is_refused() -> None:
    model = onnx_model()
    del model.graph.initializer[:]
    with pytest.raises(ExportError, match="fp16 would change nothing"):
        quantize.halve(model)


def test_a_weight_past_half_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "_LARGE", 1)
    model = onnx_model()
    tensor = model.graph.initializer[0]
    weights = numpy_helper.to_array(tensor).copy()
    weights.flat[0] = 1e5
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    with pytest.raises(ExportError, match=r"holds 1e\+05, past float16's largest number"):
        quantize.halve(model)


def test_pictures_in_colour_are_those_of_the_floats(tmp_path: Path) -> None:
    for spec in (dcgan_spec(16, nz=8, ngf=8), sigmoid_spec()):
        torch.manual_seed(0)
        generator = Generator(spec).eval()
        onnx_file.write(generator, spec, tmp_path / "a.onnx", METADATA, Variant(image="uint8").settled())
        z = latents(3, 0, 16, 8)
        pictures = images_of((tmp_path / "a.onnx").read_bytes(), z)
        with torch.inference_mode():
            right = to_pictures(generator(torch.from_numpy(z)).numpy(), spec.value_range)
        assert pictures.dtype == np.uint8
        assert pictures.shape == right.shape == (16, 16, 16, 3)
        assert np.abs(pictures.astype(int) - right).max() <= 1
        assert (pictures != right).mean() < 1e-3


def sigmoid_spec() -> GeneratorSpec:
    spec = dcgan_spec(16, nz=8, ngf=8)
    return replace(spec, value_range=(0.0, 1.0), layers=(*spec.layers[:-1], Activate("end", SIGMOID)))


def test_the_same_spec_gives_the_same_bytes(tmp_path: Path) -> None:
    generator = generator_of()
    for name in ("a", "b"):
        onnx_file.write(
            quantizable.quantizable(generator),
            small_spec(),
            tmp_path / name,
            METADATA,
            Variant(precision="int8", image="uint8", optimize="vnni").settled(),
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_bias_beside_weights_that_are_nearly_0_fits_into_32_bits(tmp_path: Path) -> None:
    generator = copy.deepcopy(generator_of("relu", trained=False))
    with torch.no_grad():
        generator.get_parameter("decon1.weight")[:, 0] *= 1e-12
        generator.get_parameter("decon1.bias")[0] = 5.0
    path = tmp_path / "a.onnx"
    onnx_file.write(
        quantizable.quantizable(generator), small_spec(), path, METADATA, Variant(precision="int8").settled()
    )
    z = latents(0, 0, 16, 6)
    with torch.inference_mode():
        right = generator(torch.from_numpy(z)).numpy()
    assert np.abs(images_of(path.read_bytes(), z) - right).mean() < 0.01


@pytest.mark.parametrize("optimize", ["fused", "vnni"])
def test_a_generator_without_biases_can_be_rounded(optimize: str, tmp_path: Path) -> None:
    generator = copy.deepcopy(generator_of("relu", trained=False))
    with torch.no_grad():
        for name, tensor in generator.named_parameters():
            if name.endswith("bias"):
                tensor.zero_()
    path = tmp_path / "a.onnx"
    variant = Variant(precision="int8", optimize=optimize).settled()
    onnx_file.write(quantizable.quantizable(generator), small_spec(), path, METADATA, variant)
    z = latents(0, 0, 16, 6)
    with torch.inference_mode():
        right = generator(torch.from_numpy(z)).numpy()
    assert np.abs(images_of(path.read_bytes(), z) - right).mean() < 0.01


@pytest.mark.parametrize(
    ("precision", "image", "optimize"),
    [("fp16", "float", None), ("int8", "uint8", None), ("int8", "float", "vnni"), ("fp32", "uint8", None)],
)
def test_what_is_exported_is_verified(precision: str, image: str, optimize: str | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(shipped_as(precision, image, optimize))
    report = verify(path, threads=1)
    assert {check.name: check.outcome for check in report.checks} == {
        "integrity": "skipped", "spec": "passed", "operators": "passed", "golden": "passed",
    }  # fmt: skip
