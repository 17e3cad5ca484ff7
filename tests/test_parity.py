"""What parity measures, and that each of its conditions can fail by itself."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from exported import generator_of, small_spec

from dcgan.networks import Generator
from dcgan_export import exact, parity
from dcgan_export.formats import FloatArray, Runner, Variant
from dcgan_export.parity_report import ParityReport
from dcgan_infer.contract.errors import CheckpointError
from dcgan_infer.contract.pixels import to_pictures
from dcgan_infer.contract.tolerance import TOLERANCES

Spoil = Callable[[FloatArray], FloatArray]


def compare(run: Runner, probes: Sequence[exact.Probe], **variant: Any) -> ParityReport:
    return parity.compare(run, probes, small_spec(), Variant(**variant).settled())


@pytest.fixture(scope="module")
def generator() -> Generator:
    return generator_of("relu")


@pytest.fixture(scope="module")
def probes(generator: Generator) -> tuple[exact.Probe, ...]:
    return exact.make_probes(generator, generator.spec)


def runner(generator: Generator, spoil: Spoil = lambda images: images) -> Runner:
    def run(z: FloatArray) -> FloatArray:
        with torch.inference_mode():
            images: FloatArray = generator(torch.from_numpy(z)).numpy().copy()
        return spoil(images)

    return run


def reasons(run: Runner, probes: tuple[exact.Probe, ...]) -> str:
    return "\n".join(compare(run, probes).reasons)


def test_eager_passes_and_its_own_error_is_the_measure(generator: Generator, probes: tuple[exact.Probe, ...]) -> None:
    report = compare(runner(generator), probes)
    assert report.passed
    for row in report.figures:
        assert row.difference.max_error == row.eager_max_error
        assert row.max_to_eager == 0.0
        assert row.difference.limit == 4.0 * row.eager_max_error + 1e-6
        assert row.difference.images == 74
        assert 100.0 < row.difference.psnr < 200.0


def test_latents_are_seeded_normal_and_tails_reach_six(probes: tuple[exact.Probe, ...], generator: Generator) -> None:
    normal, tails = probes
    assert np.array_equal(normal.latents, exact.make_probes(generator, generator.spec)[0].latents)
    assert abs(float(normal.latents.mean())) < 0.2
    assert abs(float(normal.latents.std()) - 1.0) < 0.1
    assert np.abs(tails.latents).max(axis=1) == pytest.approx(6.0)
    assert (np.abs(tails.latents) == 6.0).all(axis=1).sum() == 24
    assert {normal.latents.dtype, tails.latents.dtype} == {np.dtype(np.float32)}


def test_the_yardstick_ignores_training_mode(generator: Generator, probes: tuple[exact.Probe, ...]) -> None:
    training = copy.deepcopy(generator).train()
    before = {name: tensor.clone() for name, tensor in training.state_dict().items()}
    again = exact.make_probes(training, training.spec)
    assert np.array_equal(again[0].exact, probes[0].exact)
    assert training.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.state_dict().items())


def off_by_the_limit(share: float, probes: tuple[exact.Probe, ...]) -> Runner:
    """Gives the exact images, but for one pixel of the N(0, 1) latents, off by a share of the limit."""
    limit = 4.0 * float(np.abs(probes[0].eager - probes[0].exact).max()) + 1e-6
    answers = {z.tobytes(): image for probe in probes for z, image in zip(probe.latents, probe.exact, strict=True)}

    def run(z: FloatArray) -> FloatArray:
        images = np.stack([answers[row.tobytes()] for row in z])
        for row, image in zip(z, images, strict=True):
            if np.array_equal(row, probes[0].latents[5]):
                place = np.abs(image).argmin()  # where float32 has steps fine enough to say how far it is off
                image.flat[place] += share * limit
        return images.astype(np.float32)

    return run


def test_the_limit_is_sharp(probes: tuple[exact.Probe, ...]) -> None:
    assert compare(off_by_the_limit(0.95, probes), probes).passed
    assert "off by" in reasons(off_by_the_limit(1.05, probes), probes)


def first(value: float) -> Spoil:
    def spoil(images: FloatArray) -> FloatArray:
        images.flat[0] = value
        return images

    return spoil


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(
    value: float, generator: Generator, probes: tuple[exact.Probe, ...]
) -> None:
    report = compare(runner(generator, first(value)), probes)
    assert not report.passed
    assert {reason.partition(":")[0] for reason in report.reasons} == {"N(0,1)", "tails, |z| <= 6"}
    json.dumps(report.as_dict(), allow_nan=False)
    assert "FAILED" in report.table()


def test_a_nan_in_a_mid_grey_pixel_is_a_pixel_off(probes: tuple[exact.Probe, ...]) -> None:
    normal = probes[0]
    images = normal.eager.copy()
    images.flat[np.abs(images).argmin()] = math.nan
    answers = {z.tobytes(): image for z, image in zip(normal.latents, images, strict=True)}
    (row,) = compare(lambda z: np.stack([answers[one.tobytes()] for one in z]), [normal]).figures
    assert row.difference.pixels_off == 1
    assert row.difference.max_levels == 255


def test_nan_fails_each_condition_by_itself(generator: Generator, probes: tuple[exact.Probe, ...]) -> None:
    said = reasons(runner(generator, first(math.nan)), probes)
    for condition in ("NaN or infinite", "off by nan, the limit", "grey levels", "with their batch"):
        assert condition in said


def test_a_value_out_of_range_is_refused_and_two_steps_over_one_are_not(
    generator: Generator, probes: tuple[exact.Probe, ...]
) -> None:
    assert "values go from" in reasons(runner(generator, lambda images: images * np.float32(1.00001)), probes)

    def overshoot(images: FloatArray) -> FloatArray:
        images[images == 1.0] = 1.0 + 2.0**-22
        return images

    assert compare(runner(generator, overshoot), probes).passed


def test_images_that_depend_on_their_batch_are_refused(generator: Generator, probes: tuple[exact.Probe, ...]) -> None:
    def bleed(images: FloatArray) -> FloatArray:
        images += np.float32(1e-4) * images.mean(axis=0, keepdims=True)
        return images

    assert "with their batch" in reasons(runner(generator, bleed), probes)


def test_images_that_change_from_call_to_call_are_refused(
    generator: Generator, probes: tuple[exact.Probe, ...]
) -> None:
    random = np.random.default_rng(0)
    noisy = runner(generator, lambda images: images + random.normal(0, 1e-3, images.shape).astype(np.float32))
    assert "with their batch" in reasons(noisy, probes)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda images: images.astype(np.float64), "found float64"),
        (lambda images: images.astype(np.float16), "found float16"),
        (lambda images: images[:1], "of shape (1, 1, 8, 8)"),
        (lambda images: images.reshape(len(images), -1), "of shape (1, 64)"),
    ],
)
def test_another_shape_or_type_is_refused(
    spoil: Spoil, said: str, generator: Generator, probes: tuple[exact.Probe, ...]
) -> None:
    report = compare(runner(generator, spoil), probes)
    assert said in "\n".join(report.reasons)
    assert report.figures == ()
    assert "FAILED" in report.table()


def test_an_artifact_that_does_not_run_is_refused_with_the_reason(probes: tuple[exact.Probe, ...]) -> None:
    def run(z: FloatArray) -> FloatArray:
        raise RuntimeError(f"no room for {len(z)}\nand a long trace")

    assert "does not run on a batch of 1: no room for 1" in reasons(run, probes)


def test_an_artifact_that_writes_into_its_input_does_not_spoil_the_latents(
    generator: Generator, probes: tuple[exact.Probe, ...]
) -> None:
    before = probes[0].latents.copy()

    def run(z: FloatArray) -> npt.NDArray[Any]:
        images = runner(generator)(z)
        z[:] = 0.0
        return images

    assert compare(run, probes).passed
    assert np.array_equal(before, probes[0].latents)


def test_a_checkpoint_that_is_not_finite_is_refused(generator: Generator) -> None:
    broken = copy.deepcopy(generator)
    with torch.no_grad():
        broken.get_parameter("decon1.weight")[0, 0, 0, 0] = math.nan
    with pytest.raises(CheckpointError, match="not finite"):
        exact.make_probes(broken, broken.spec)


def test_the_table_fits_a_terminal_and_the_json_has_every_figure(
    generator: Generator, probes: tuple[exact.Probe, ...]
) -> None:
    report = compare(runner(generator), probes)
    lines = report.table().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "parity: passed"
    read = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert read["passed"] is True
    assert read["tolerance"] == dataclasses.asdict(TOLERANCES["fp32"])
    assert [row["latents"] for row in read["figures"]] == ["N(0,1)", "tails, |z| <= 6"]
    assert read["figures"][0]["max_error"] == report.figures[0].difference.max_error


def test_equal_images_have_an_infinite_psnr_that_json_can_say(probes: tuple[exact.Probe, ...]) -> None:
    same = [exact.Probe(p.name, p.latents, p.eager.astype(np.float64), p.eager) for p in probes]
    answers = {z.tobytes(): image for p in same for z, image in zip(p.latents, p.eager, strict=True)}
    report = compare(lambda z: np.stack([answers[row.tobytes()] for row in z]), same)
    assert report.passed
    assert report.figures[0].difference.psnr == math.inf
    assert report.as_dict()["figures"][0]["psnr"] is None


def test_a_wrong_batch_is_not_lost_in_a_mean(probes: tuple[exact.Probe, ...], generator: Generator) -> None:
    right = runner(generator)

    def run(z: FloatArray) -> npt.NDArray[Any]:
        return np.full((1, 1, 8, 8), -1.0, np.float32) if len(z) == 1 else right(z)

    assert not compare(run, probes, precision="int8").passed


def test_the_kind_of_image_that_was_asked_for_is_the_one_that_passes(
    probes: tuple[exact.Probe, ...], generator: Generator
) -> None:
    right = runner(generator)

    def grey(z: FloatArray) -> npt.NDArray[Any]:
        return to_pictures(right(z))

    assert compare(grey, probes, image="uint8").passed
    assert "should give float32 images" in compare(grey, probes).reasons[0]
    assert "should give uint8 images" in compare(right, probes, image="uint8").reasons[0]
