from __future__ import annotations

import json

import pytest

from dcgan_infer.contract.errors import SpecError
from dcgan_infer.contract.spec import Activation, GeneratorSpec


def test_round_trip_through_json() -> None:
    spec = GeneratorSpec(latent_dim=7, image_shape=(1, 8, 8), channels=(4, 3, 2), activation=Activation("elu", 0.5))
    assert GeneratorSpec.from_json(spec.to_json()) == spec


def test_multiply_adds_of_an_image() -> None:
    # By hand: linear1 100 * 12544; decon1 49 * 256 * 128 * 9; decon2 49 * 128 * 64 * 16; decon3 196 * 64 * 16.
    assert GeneratorSpec().multiply_adds == 1_254_400 + 14_450_688 + 6_422_528 + 200_704
    # Ten classes make the latent ten longer: 10 * 12544 more.
    assert GeneratorSpec(num_classes=10).multiply_adds == GeneratorSpec().multiply_adds + 125_440
    # Images of 8x8 begin as 2x2: 7 * 16; 4 * 4 * 3 * 9; 4 * 3 * 2 * 16; 16 * 2 * 16.
    small = GeneratorSpec(latent_dim=7, image_shape=(1, 8, 8), channels=(4, 3, 2))
    assert small.multiply_adds == 112 + 432 + 384 + 512


def test_json_is_canonical() -> None:
    assert (
        GeneratorSpec().to_json()
        == GeneratorSpec.from_json(json.dumps(json.loads(GeneratorSpec().to_json()))).to_json()
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
    ],
)
def test_activation_is_read_and_written(text: str, activation: Activation) -> None:
    assert Activation.parse(text) == activation
    assert Activation.parse(str(activation)) == activation
    spec = GeneratorSpec(activation=activation)
    assert GeneratorSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "text", ["", "gelu", "relu:1", "elu:", "elu:x", "elu:-1", "elu:nan", "elu:inf", "leaky-relu:0"]
)
def test_bad_activation_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        Activation.parse(text)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"latent_dim": 0},
        {"latent_dim": "100"},
        {"latent_dim": 10**9},
        {"latent_dim": True},
        {"image_shape": [1, 30, 30]},
        {"image_shape": [1, 28, 32]},
        {"image_shape": [28, 28]},
        {"image_shape": None},
        {"channels": [256, 128]},
        {"num_classes": -1},
        {"latent_distribution": "uniform"},
        {"value_range": [0, 1]},
        {"value_range": [0]},
        {"activation": "gelu"},
        {"activation": 3},
        {"surprise": 1},
    ],
)
def test_damaged_spec_is_refused(change: dict[str, object]) -> None:
    fields = json.loads(GeneratorSpec().to_json()) | change
    with pytest.raises(SpecError):
        GeneratorSpec.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000])
def test_text_that_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        GeneratorSpec.from_json(text)
