"""From values to pixels and back, and sheets of pictures; and the one judge of images, in colour too."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dcgan_infer.contract.difference import compare_images
from dcgan_infer.contract.pixels import Range, tile, to_pictures, to_uint8, to_values
from dcgan_infer.contract.spec import VALUE_RANGES, Interface
from dcgan_infer.contract.tolerance import TOLERANCES, tolerance_of

FP32 = TOLERANCES["fp32"]


@pytest.mark.parametrize("value_range", VALUE_RANGES)
def test_every_level_is_what_it_was_after_a_round_trip(value_range: Range) -> None:
    for shape in ((2, 8, 16), (2, 8, 16, 3)):
        levels = np.resize(np.arange(256, dtype=np.uint8), shape)
        values = to_values(levels, value_range)
        assert values.dtype == np.float32
        assert values.shape == (2, 3 if len(shape) == 4 else 1, 8, 16)
        assert (values.min(), values.max()) == value_range
        assert np.array_equal(to_pictures(values, value_range), levels)


def test_levels_are_the_nearest_and_ends_are_exact() -> None:
    values = np.array([-9.0, -1.0, -0.5, 0.0, 2 / 255 + 1e-4, 1.0, 9.0], np.float32)
    assert to_uint8(values).tolist() == [0, 0, 64, 128, 129, 255, 255]
    assert to_uint8(values, (0.0, 1.0)).tolist() == [0, 0, 0, 0, 2, 255, 255]


def test_pictures_have_their_channels_last_and_grey_ones_have_none() -> None:
    values = np.zeros((2, 3, 4, 5), np.float32)
    values[:, 1] = 1.0
    assert to_pictures(values).shape == (2, 4, 5, 3)
    assert to_pictures(values)[0, 0, 0].tolist() == [128, 255, 128]
    assert to_pictures(values[:, :1]).shape == (2, 4, 5)
    assert to_pictures(values[:, :2]).shape == (2, 4, 5, 2)
    pictures = np.zeros((2, 4, 5), np.uint8)
    assert to_pictures(pictures) is pictures


@pytest.mark.parametrize("channels", [(), (3,)])
def test_tiles_lie_row_by_row(channels: tuple[int, ...]) -> None:
    pictures = np.arange(5 * 2 * 3 * (channels or (1,))[0], dtype=np.uint8).reshape(5, 2, 3, *channels)
    sheet = tile(pictures, 2, 3)
    assert sheet.shape == (4, 9, *channels)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, 3)
        assert np.array_equal(sheet[2 * row : 2 * row + 2, 3 * column : 3 * column + 3], picture)
    assert not sheet[2:, 6:].any()
    with pytest.raises(ValueError, match="5 images don't fit a grid of 2x2"):
        tile(pictures, 2, 2)


def images(value_range: Range) -> np.ndarray:
    low, high = value_range
    return np.random.default_rng(0).uniform(low, high, (6, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("value_range", VALUE_RANGES)
def test_the_judge_of_colour_images_and_of_pictures(value_range: Range) -> None:
    interface = Interface(5, (3, 4, 5), value_range=value_range)
    right = images(value_range)
    tolerance, for_levels = (tolerance_of("fp32", value_range, is_uint8) for is_uint8 in (False, True))
    same = compare_images(right, right, interface, tolerance, tolerance.limit(0.0))
    assert (same.reasons(), same.max_error, same.pixels) == ([], 0.0, right.size)
    pictures = to_pictures(right, value_range)
    for one, other in ((pictures, right), (right, pictures), (pictures, pictures)):
        found = compare_images(one, other, interface, for_levels, for_levels.limit(0.0))
        assert found.reasons() == []
        assert found.pixels_off == 0
    mixed = compare_images(pictures[..., ::-1], right, interface, for_levels, for_levels.limit(0.0))
    assert len(mixed.reasons()) == 4
    wider = np.concatenate([right[1:], right[:1] + np.float32(1.0)])
    assert any("values go from" in reason for reason in compare_images(wider, wider, interface, FP32, 9.0).reasons())


def test_a_bad_image_among_good_ones_is_noticed() -> None:
    interface = Interface(5, (3, 4, 5))
    right = np.zeros((100, 3, 4, 5), np.float32)
    wrong = right.copy()
    wrong[7] += np.float32(3 / 255)
    (reason,) = compare_images(wrong, right, interface, FP32, None).reasons()[-1:]
    assert "pixels of an image are off" in reason


@pytest.mark.parametrize("place", ["images", "right"])
def test_what_is_not_finite_fails(place: str) -> None:
    interface = Interface(5, (3, 4, 5))
    pair = {"images": images((-1.0, 1.0)), "right": images((-1.0, 1.0))}
    pair[place][3, 1, 2, 2] = np.nan
    found = compare_images(pair["images"], pair["right"], interface, dataclasses.replace(FP32, levels=255), 9.0)
    assert "1 of 360 values are NaN or infinite" in found.reasons()[0]
    assert found.max_levels == 255
