from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dcgan.augment import AUGMENTATIONS, colour, cutout, diff_augment, translation


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(64, 3, 16, 16) * 2 - 1


def test_each_image_is_changed_in_its_own_way(images: Tensor) -> None:
    same = images[:1].expand(64, -1, -1, -1)
    for change in (colour, translation, cutout, diff_augment):
        changed = change(same)
        assert changed.shape == same.shape
        assert len({image.numpy().tobytes() for image in changed}) > 16, change


def test_colours_change_and_places_do_not(images: Tensor) -> None:
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    changed = colour(grey)  # nothing to saturate: a shift and a scale for each image
    for before, after in zip(grey, changed, strict=True):
        gain = (after.max() - after.min()) / (before.max() - before.min())
        shift = after.mean() - before.mean()
        assert 0.5 <= gain <= 1.5
        assert -0.5 <= shift <= 0.5
        torch.testing.assert_close(after, (before - before.mean()) * gain + before.mean() + shift, atol=1e-4, rtol=1e-4)


def test_saturation_keeps_the_mean_of_the_channels(images: Tensor) -> None:
    changed = colour(images)
    means, after = images.mean(1), changed.mean(1)
    centred = means - means.mean((1, 2), keepdim=True), after - after.mean((1, 2), keepdim=True)
    ratios = centred[1].std((1, 2)) / centred[0].std((1, 2))
    assert ((ratios >= 0.5 - 1e-4) & (ratios <= 1.5 + 1e-4)).all()
    assert (changed - images).std() > 0.1


def test_a_translation_moves_by_an_eighth_at_most_and_repeats_the_edge(images: Tensor) -> None:
    seen = set()
    for before, after in zip(images, translation(images), strict=True):
        moves = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(
                torch.nn.functional.pad(before[None], (2, 2, 2, 2), mode="replicate")[
                    0, :, 2 - down : 18 - down, 2 - right : 18 - right
                ],
                after,
            )
        ]
        assert len(moves) == 1
        seen.add(moves[0])
    assert len(seen) > 12


def test_a_cutout_is_one_grey_square(images: Tensor) -> None:
    changed = cutout(images)
    hole = (changed != images).any(1)
    assert (changed[hole.unsqueeze(1).expand_as(changed)] == 0).all()
    assert hole.sum((1, 2)).min() > 0
    assert hole.sum((1, 2)).max() <= 64  # half the side
    for one in hole:
        rows, columns = one.any(1), one.any(0)
        assert one.sum() == rows.sum() * columns.sum()


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_pass(channels: int) -> None:
    for change in AUGMENTATIONS.values():
        images = torch.rand(8, channels, 16, 16, requires_grad=True)
        change(images).sum().backward()  # type: ignore[no-untyped-call]
        assert images.grad is not None
        assert images.grad.abs().sum() > 0
