"""The spec: its JSON, what it refuses, and what it counts."""

from __future__ import annotations

import json

import pytest

from dcgan_infer.contract.errors import SpecError
from dcgan_infer.contract.layers import ACTIVATIONS, Activation, Linear, Unflatten
from dcgan_infer.contract.spec import GeneratorSpec, Interface, reference_spec

SMALL = reference_spec(7, (1, 8, 8), channels=(4, 3, 2), activation=Activation("elu", 0.5))
NAMED = GeneratorSpec(7, (3, 9, 5), 2, ("cat", "dog"), value_range=(0.0, 1.0))
# As version 0.1 wrote it.
OLD = {
    "activation": "relu",
    "channels": [256, 128, 64],
    "image_shape": [1, 28, 28],
    "latent_dim": 100,
    "latent_distribution": "standard-normal",
    "num_classes": 0,
    "schema": 1,
    "value_range": [-1.0, 1.0],
}


@pytest.mark.parametrize("spec", [reference_spec(), SMALL, NAMED, GeneratorSpec()])
def test_round_trip_through_json(spec: GeneratorSpec) -> None:
    assert GeneratorSpec.from_json(spec.to_json()) == spec
    # Canonical: the same whatever wrote it.
    assert GeneratorSpec.from_json(json.dumps(json.loads(spec.to_json()))).to_json() == spec.to_json()


def test_multiply_adds_of_an_image() -> None:
    # By hand: linear1 100 * 12544; decon1 49 * 256 * 128 * 9; decon2 49 * 128 * 64 * 16; decon3 196 * 64 * 16.
    plain = reference_spec().multiply_adds
    assert plain == 1_254_400 + 14_450_688 + 6_422_528 + 200_704
    # Ten classes make the latent ten longer: 10 * 12544 more.
    assert reference_spec(num_classes=10).multiply_adds == plain + 125_440
    # Images of 8x8 begin as 2x2: 7 * 16; 4 * 4 * 3 * 9; 4 * 3 * 2 * 16; 16 * 2 * 16.
    assert SMALL.multiply_adds == 112 + 432 + 384 + 512
    assert NAMED.multiply_adds is None  # nobody knows its layers


def test_the_interface_is_the_spec_without_layers() -> None:
    assert SMALL.interface == GeneratorSpec(7, (1, 8, 8)).interface == Interface(7, (1, 8, 8))
    assert SMALL.interface != reference_spec(7, (1, 12, 8)).interface


def test_pictures_levels_and_labels() -> None:
    assert NAMED.picture_shape == (9, 5, 3)
    assert NAMED.level == 1 / 255
    assert NAMED.labels == ("cat", "dog")
    assert GeneratorSpec(num_classes=3).labels == ("0", "1", "2")
    assert GeneratorSpec().labels == ()
    assert GeneratorSpec().picture_shape == (28, 28)
    assert GeneratorSpec().level == 2 / 255


def test_schema_1_is_read() -> None:
    assert GeneratorSpec.from_json(json.dumps(OLD)) == reference_spec()
    leaky = OLD | {"activation": "leaky-relu:0.2", "num_classes": 10}
    assert GeneratorSpec.from_json(json.dumps(leaky)) == reference_spec(
        num_classes=10, activation=Activation("leaky-relu", 0.2)
    )


@pytest.mark.parametrize(
    ("text", "activation"),
    [
        ("relu", Activation("relu")),
        ("leaky-relu", Activation("leaky-relu", 0.01)),
        ("leaky-relu:0.2", Activation("leaky-relu", 0.2)),
        ("elu", Activation("elu", 1.0)),
        ("softplus:2", Activation("softplus", 2.0)),
        ("leaky-relu:0.123456789", Activation("leaky-relu", 0.123456789)),
        ("elu:1e-07", Activation("elu", 1e-7)),
        *((name, Activation(name)) for name, takes in ACTIVATIONS.items() if takes is None),
    ],
)
def test_activation_is_read_and_written(text: str, activation: Activation) -> None:
    assert Activation.parse(text) == activation
    assert Activation.parse(str(activation)) == activation
    spec = reference_spec(activation=activation)
    assert spec.activation == activation
    assert GeneratorSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "text", ["", "swish", "relu:1", "elu:", "elu:x", "elu:-1", "elu:nan", "elu:inf", "leaky-relu:0"]
)
def test_bad_activation_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        Activation.parse(text)


DAMAGE: list[dict[str, object]] = [
    {"schema": 3},
    {"schema": 0},
    {"schema": True},
    {"latent_dim": 0},
    {"latent_dim": "100"},
    {"latent_dim": 10**9},
    {"latent_dim": True},
    {"image_shape": [28, 28]},
    {"image_shape": [0, 28, 28]},
    {"image_shape": None},
    {"num_classes": -1},
    {"num_classes": 1 << 17},
    {"latent_distribution": "uniform"},
    {"value_range": [0]},
    {"value_range": [0, 255]},
    {"value_range": ["a", "b"]},
    {"surprise": 1},
]


@pytest.mark.parametrize(
    "change",
    [
        *DAMAGE,
        {"image_shape": [1, 30, 30]},
        {"image_shape": [1, 28, 30]},
        {"channels": [256, 128]},
        {"channels": [256, 128, 0]},
        {"value_range": [0, 1]},
        {"activation": "swish"},
        {"activation": 3},
    ],
)
def test_a_damaged_spec_of_schema_1_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        GeneratorSpec.from_json(json.dumps(OLD | change))


@pytest.mark.parametrize(
    "change",
    [
        *DAMAGE,
        {"class_names": ["cat"]},
        {"class_names": ["cat", "cat"]},
        {"class_names": ["cat", " dog"]},
        {"class_names": ["cat", "d\nog"]},
        {"class_names": ["cat", ""]},
        {"class_names": ["cat", 3]},
        {"class_names": ["cat", ["dog"]]},
        {"class_names": None},
        {"class_names": "ab"},
        {"layers": None},
        {"layers": [3]},
        {"layers": [{"kind": "attention", "name": "a"}]},
        {"layers": [{"kind": "linear", "name": "a", "inputs": 9}]},
        {"layers": [{"kind": "linear", "name": "a", "inputs": 9, "outputs": -135, "bias": True}]},
        {"layers": [{"kind": "linear", "name": "a", "inputs": 9, "outputs": 135, "bias": True}]},  # no image
    ],
)
def test_a_damaged_spec_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        GeneratorSpec.from_json(json.dumps(json.loads(NAMED.to_json()) | change))


def test_that_the_damage_above_is_the_reason() -> None:
    layers = [
        {"kind": "linear", "name": "a", "inputs": 9, "outputs": 135, "bias": True},
        {"kind": "unflatten", "name": "b", "shape": [3, 9, 5]},
    ]
    spec = GeneratorSpec.from_json(json.dumps(json.loads(NAMED.to_json()) | {"layers": layers}))
    assert spec.layers == (Linear("a", 9, 135), Unflatten("b", (3, 9, 5)))
    assert spec.interface == NAMED.interface


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000, '{"schema":1e400}'])
def test_text_that_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        GeneratorSpec.from_json(text)
