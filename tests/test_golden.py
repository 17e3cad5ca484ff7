"""Golden vectors: what ships, the bytes they are written in, and what the reader refuses."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import MODELS, ROOT

from dcgan.datasets import DATASETS
from dcgan_infer import shipped
from dcgan_infer.contract.errors import ModelError
from dcgan_infer.contract.golden import COUNT, SUFFIX, Golden, parse_golden
from dcgan_infer.contract.latents import latents
from dcgan_infer.contract.spec import GeneratorSpec, reference_spec

NAMES = ["dcgan-fashion-mnist-conditional", "dcgan-mnist", "dcgan-mnist-conditional"]
CONDITIONAL = shipped.path_of("dcgan-mnist-conditional", SUFFIX)


def golden_of(path: Path) -> Golden:
    return parse_golden(path.read_bytes(), path)


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def whole(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_every_shipped_model_has_golden_vectors() -> None:
    assert shipped.names(SUFFIX) == shipped.names(".onnx") == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_ships_is_what_the_page_says(name: str) -> None:
    path = shipped.path_of(name, SUFFIX)
    golden = golden_of(path)
    clothes = (DATASETS["fashion-mnist"].class_names or ()) if "fashion" in name else ()
    classes = 10 if name.endswith("conditional") else 0
    assert golden.spec == reference_spec(num_classes=classes, class_names=clothes)
    assert np.array_equal(golden.z, latents(0, 0, 20, 100))
    assert [array.dtype.name for array in (golden.z, golden.image, golden.image_uint8)] == [
        "float32",
        "float32",
        "uint8",
    ]
    assert golden.image.shape == (COUNT, 1, 28, 28)
    assert golden.image_uint8.shape == (COUNT, 28, 28)
    assert 1e-7 < golden.eager_max_error < 1e-4
    if golden.label is not None:
        assert golden.label.tolist() == list(range(10)) * 2
    assert parts(golden.to_bytes())[1] == parts(path.read_bytes())[1]
    assert parse_golden(golden.to_bytes(), path).to_bytes() == golden.to_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_anybodys_safetensors_reads_it(name: str) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = shipped.path_of(name, SUFFIX)
    golden = golden_of(path)
    found = safetensors.load(path.read_bytes())
    expected: dict[str, npt.NDArray[Any]] = {"z": golden.z, "image": golden.image, "image_uint8": golden.image_uint8}
    if golden.label is not None:
        expected["label"] = golden.label
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], value) for key, value in expected.items())
    header, _ = parts(path.read_bytes())
    assert all(isinstance(value, str) for value in header["__metadata__"].values())
    assert struct.unpack_from("<Q", path.read_bytes())[0] % 8 == 0


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_javascript_of_the_page_reads_it(tmp_path: Path) -> None:
    (snippet,) = re.findall(r"```js\n(.*?)```", (ROOT / "docs" / "contracts.md").read_text(), re.DOTALL)
    (tmp_path / "read.mjs").write_text(snippet)
    (tmp_path / "models").mkdir()
    shutil.copy(CONDITIONAL, tmp_path / "models")
    done = subprocess.run(["node", "read.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"[ 20, 1, 28, 28 ] {float(golden_of(CONDITIONAL).z[0, 0])} 15680 7n\n"


def metadata(key: str, value: object) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        header, data = parts(content)
        header["__metadata__"][key] = value
        return whole(header, data)

    return change


def entry(name: str, key: str, value: object) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        header, data = parts(content)
        header[name][key] = value
        return whole(header, data)

    return change


def array(name: str, place: int, value: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        header, data = parts(content)
        at = header[name]["data_offsets"][0] + place
        return whole(header, data[:at] + value + data[at + len(value) :])

    return change


NAN = struct.pack("<f", float("nan"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: b"", "fewer than the length"),
        (lambda content: content[:7], "fewer than the length"),
        (lambda content: content[:300], "foreign or truncated"),
        (lambda content: content[:-1], "should have 86560 bytes, found 86559"),
        (lambda content: content + b"\0", "should have 86560 bytes, found 86561"),
        (lambda content: b"\x89PNG\r\n\x1a\n" + bytes(64), "foreign or truncated"),
        (lambda content: struct.pack("<Q", 4) + b"nope", "not JSON"),
        (lambda content: struct.pack("<Q", 4) + b"\xff\xff\xff\xff", "not JSON"),
        (lambda content: whole([1], b""), "should have __metadata__"),
        (lambda content: whole({}, b""), "should have __metadata__"),
        (lambda content: struct.pack("<Q", 200_000) + b"[" * 200_000, "not JSON"),
        (metadata("more", "x"), "with the keys"),
        (metadata("seed", 0), "no string"),
        (metadata("seed", "1"), "of seed 0 from 0 on"),
        (metadata("start", "7"), "of seed 0 from 0 on"),
        (metadata("eager_max_error", "nan"), "a number from 0 to 0.002"),
        (metadata("eager_max_error", "-1"), "a number from 0 to 0.002"),
        (metadata("eager_max_error", "inf"), "a number from 0 to 0.002"),
        (metadata("eager_max_error", "1e9"), "a number from 0 to 0.002"),  # with it all would pass
        (metadata("eager_max_error", "much"), "a number from 0 to 0.002"),
        (metadata("dcgan.weights_sha256", "abc"), "no digest"),
        (metadata("dcgan.spec", "{}"), "schema None"),
        (metadata("dcgan.spec", GeneratorSpec(latent_dim=64, num_classes=10).to_json()), "its arrays should be"),
        (metadata("dcgan.spec", GeneratorSpec(image_shape=(3, 28, 28)).to_json()), "its arrays should be"),
        (metadata("dcgan.spec", GeneratorSpec(num_classes=10, value_range=(0, 1)).to_json()), "not within 0 to 1"),
        (entry("z", "dtype", "F64"), "its arrays should be"),
        (entry("z", "shape", [20, 99]), "its arrays should be"),
        (entry("image", "data_offsets", [160, 1 << 62]), "its arrays should be"),
        (entry("image", "data_offsets", [-160, 62720]), "its arrays should be"),
        (array("z", 40, NAN), "latents are not finite"),
        (array("image", 40, NAN), "not within -1 to 1"),
        (array("image", 40, struct.pack("<f", 1.5)), "not within -1 to 1"),
        (array("image_uint8", 40, b"\x80"), "contradict each other"),
        (array("label", 8, b"\x02"), "labels should be"),
    ],
)
def test_what_is_no_golden_file_is_refused_in_a_line(
    change: Callable[[bytes], bytes], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.golden"
    path.write_bytes(change(CONDITIONAL.read_bytes()))
    with pytest.raises(ModelError, match=re.escape(says)) as caught:
        golden_of(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "dcgan-export --golden" in str(caught.value)


@pytest.mark.parametrize("name", ["colour", "clothes"])
def test_golden_vectors_in_colour(name: str) -> None:
    path = MODELS / f"{name}.golden"
    golden = golden_of(path)
    assert golden.image.shape == (COUNT, 3, 4, 6)
    assert golden.image_uint8.shape == (COUNT, 4, 6, 3)
    assert golden.to_bytes() == path.read_bytes()


def test_that_the_damage_above_is_the_reason() -> None:
    header, data = parts(CONDITIONAL.read_bytes())
    assert parse_golden(whole(header, data), CONDITIONAL).label is not None


def test_other_shapes_than_the_spec_says_are_not_written() -> None:
    golden = golden_of(CONDITIONAL)
    with pytest.raises(ModelError, match="should have the shapes"):
        dataclasses.replace(golden, z=golden.z[:, :5]).to_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_checkpoint_makes_what_ships(name: str) -> None:
    """To the last float32 step: float64 sums in another order on another machine."""
    pytest.importorskip("torch")
    from dcgan.checkpoint import load_generator
    from dcgan_export.golden import make_golden

    ours = golden_of(shipped.path_of(name, SUFFIX))
    checkpoint = load_generator(shipped.path_of(name, ".safetensors"))
    made = make_golden(checkpoint)
    assert made.weights_sha256 == ours.weights_sha256
    assert np.abs(made.image - ours.image).max() <= 2.0**-24
    assert np.abs(made.image_uint8.astype(int) - ours.image_uint8).max() <= 1
    assert 0.3 < made.eager_max_error / ours.eager_max_error < 3.0
    assert made.to_bytes() == make_golden(checkpoint).to_bytes()
