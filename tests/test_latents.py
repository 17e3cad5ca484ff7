"""The latent contract, held against its own page and against the statistics it promises."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conftest import ROOT

from dcgan_infer.contract.errors import LatentError
from dcgan_infer.contract.latents import labels, latents, threefry2x32
from dcgan_infer.inputs import Block, checked, load, walk

DOC = (ROOT / "docs" / "contracts.md").read_text()
KNOWN = re.findall(r"^\| (\w{8}) \| (\w{8}) \| (\w{8}) \| (\w{8}) \| (\w{8}) \| (\w{8}) \|$", DOC, re.MULTILINE)
VECTORS = re.findall(
    r"^\| (\d+) \| (\d+) \| (\d+) \| (\w{8}) \| (\w{8}) \| (-?[\d.]+) \| (-?[\d.]+) \|$", DOC, re.MULTILINE
)


def words(key: int, i: int, j: int) -> tuple[int, int]:
    x0, x1 = threefry2x32(key, np.array([i], np.uint32), np.array([j], np.uint32))
    return int(x0[0]), int(x1[0])


def test_the_page_has_its_vectors() -> None:
    assert len(KNOWN) == 3
    assert len(VECTORS) >= 10


@pytest.mark.parametrize("row", KNOWN)
def test_known_answers_of_random123(row: tuple[str, ...]) -> None:
    c0, c1, k0, k1, x0, x1 = (int(word, 16) for word in row)
    assert words(k1 << 32 | k0, c0, c1) == (x0, x1)


@pytest.mark.parametrize("row", VECTORS)
def test_vectors_of_the_contract(row: tuple[str, ...]) -> None:
    seed, i, j = (int(number) for number in row[:3])
    assert words(seed, i, j) == (int(row[3], 16), int(row[4], 16))
    z = latents(seed, i, 1, 100)[0]
    # Nine digits name a float32 exactly.
    assert z[2 * j] == np.float32(row[5])
    assert z[2 * j + 1] == np.float32(row[6])


def test_normals_are_box_muller_s_of_the_math_library() -> None:
    i, j = (a.astype(np.uint32).ravel() for a in np.meshgrid(np.arange(2000), np.arange(50), indexing="ij"))
    x0, x1 = threefry2x32(3, i, j)
    r = np.sqrt(-2 * np.log(((x0 >> 8) + 1) * 2.0**-24))
    angle = 2 * np.pi * ((x1 >> 8) * 2.0**-24)
    pairs = np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1).reshape(2000, 100)
    assert (
        np.abs(latents(3, 0, 2000, 100) - pairs).max() < 4e-7
    )  # half a float32 step at 5.77, and float64's own rounding


def test_float32_is_enough_with_the_angle_reduced_as_the_page_says() -> None:
    count = 4000
    i, j = (a.astype(np.uint32).ravel() for a in np.meshgrid(np.arange(count), np.arange(50), indexing="ij"))
    x0, x1 = threefry2x32(3, i, j)
    one, two = np.float32(1), np.float32(2)
    r = np.sqrt(-two * np.log(((x0 >> 8).astype(np.float32) + one) * np.float32(2.0**-24)))
    q = (x1 >> 8).astype(np.float32) * np.float32(2.0**-22)
    whole = np.rint(q)
    t = (q - whole) * np.float32(np.pi / 2)
    turn = whole.astype(int) % 4
    cosine = np.choose(turn, [np.cos(t), -np.sin(t), -np.cos(t), np.sin(t)])
    sine = np.choose(turn, [np.sin(t), np.cos(t), -np.sin(t), -np.cos(t)])
    assert cosine.dtype == np.float32
    pairs = np.stack([r * cosine, r * sine], axis=1).reshape(count, 100)
    assert np.abs(latents(3, 0, count, 100) - pairs).max() < 1e-6


def test_the_ends_of_the_uniform_range_give_finite_normals(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = np.array([0, 0xFFFFFFFF], np.uint32)
    for x0 in ends:
        for x1 in ends:
            monkeypatch.setattr("dcgan_infer.contract.latents.threefry2x32", lambda *_, a=x0, b=x1: (a[None], b[None]))
            z = latents(0, 0, 1, 2)
            assert np.isfinite(z).all()
            assert np.abs(z).max() <= 5.7682


@pytest.mark.parametrize(("start", "count"), [(0, 1), (5, 3), (81, 200), (299, 1)])
def test_a_latent_does_not_depend_on_what_else_is_asked_for(start: int, count: int) -> None:
    assert np.array_equal(latents(9, start, count, 100), latents(9, 0, 300, 100)[start : start + count])


def test_a_shorter_latent_is_the_head_of_a_longer_one() -> None:
    assert np.array_equal(latents(9, 0, 4, 7), latents(9, 0, 4, 100)[:, :7])
    assert latents(9, 0, 4, 1).shape == (4, 1)


def test_seeds_and_indices_give_other_latents() -> None:
    rows = [
        latents(seed, i, 1, 100)[0].tobytes() for seed in (0, 1, 1 << 32, (1 << 63) - 1) for i in (0, 1, (1 << 32) - 1)
    ]
    assert len(set(rows)) == len(rows)


def test_they_are_standard_normal_and_uncorrelated() -> None:
    count, dim = 20_000, 100
    z = latents(0, 0, count, dim).astype(np.float64)
    n = z.size
    # Each within five standard errors of what N(0, 1) has.
    assert abs(z.mean()) < 5 / n**0.5
    assert abs(z.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((z**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 5 * (96 / n) ** 0.5
    correlations = np.corrcoef(z, rowvar=False) - np.eye(dim)
    assert np.abs(correlations).max() < 5.5 / count**0.5  # the largest of 4,950
    assert abs((z[:-1] * z[1:]).mean()) < 5 / n**0.5
    inside = [(np.abs(z) < x).mean() for x in (0.5, 1.0, 2.0, 3.0)]
    assert np.allclose(inside, [0.382925, 0.682689, 0.954500, 0.997300], atol=0.0015)


@pytest.mark.parametrize(
    ("seed", "start", "count", "dim"),
    [
        (-1, 0, 1, 2),
        (1 << 63, 0, 1, 2),
        (0, -1, 1, 2),
        (0, 0, -1, 2),
        (0, (1 << 32) - 1, 2, 2),
        (0, 0, 1, 0),
        (0, 0, 1, 131073),
    ],
)
def test_arguments_out_of_range_are_refused(seed: int, start: int, count: int, dim: int) -> None:
    with pytest.raises(LatentError):
        latents(seed, start, count, dim)


@pytest.mark.parametrize(
    ("z", "says"),
    [
        (np.zeros((2, 3)), r"shape \(N, 4\)"),
        (np.zeros(4), r"shape \(N, 4\)"),
        (np.zeros((2, 4), int), "floating-point"),
        (np.zeros((2, 4), complex), "floating-point"),
        (np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]]), "latent 1 holds nan; its numbers must be from -100 to 100: draw"),
        (np.array([[100.0, -100.0, 0, 0], [0, 0, 0, 100.5]]), "latent 1 holds 100.5; its numbers must be"),
        (np.array([[0, 0, -np.inf, 0]]), "latent 0 holds -inf"),
        (np.array([[0, 0, 0, 1e300]]), r"latent 0 holds 1e\+300"),
    ],
)
def test_latents_of_a_caller_are_checked(z: npt.NDArray[np.generic], says: str) -> None:
    with pytest.raises(LatentError, match=says):
        checked(z, 4)


def test_latents_of_a_caller_become_contiguous_float32() -> None:
    z = np.asfortranarray(np.arange(8.0).reshape(2, 4))
    assert checked(z, 4).dtype == np.float32
    assert checked(z, 4).flags.c_contiguous
    assert np.array_equal(checked(z, 4), z)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('pwned').touch()",))


def test_files_that_hold_no_latents_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "flat.npy", np.zeros(4))
    np.save(tmp_path / "empty.npy", np.zeros((0, 4)))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=np.zeros((2, 4)))
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Evil()))
    np.save(tmp_path / "evil.npy", np.array([[Evil()]], object), allow_pickle=True)
    np.save(tmp_path / "good.npy", np.zeros((2, 4)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-1])
    (tmp_path / "foreign.npy").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "nothing.npy").touch()
    names = (
        "flat.npy",
        "empty.npy",
        "objects.npy",
        "pickle.npy",
        "evil.npy",
        "several.npz",
        "cut.npy",
        "foreign.npy",
        "nothing.npy",
        "none.npy",
        ".",
    )
    for name in names:
        with pytest.raises(LatentError):
            load(tmp_path / name)
    assert load(tmp_path / "good.npy").values.shape == (2, 4)
    assert not (tmp_path / "pwned").exists()


def test_a_walk_starts_at_each_latent_and_keeps_to_the_sphere() -> None:
    z = latents(0, 0, 3, 100)
    frames = np.concatenate([block.z for block in walk([Block(z[:2]), Block(z[2:])], 8)])
    assert frames.shape == (24, 100)
    assert np.array_equal(frames[::8], z)
    lengths = np.linalg.norm(frames, axis=1)
    assert lengths.min() > 0.97 * np.linalg.norm(z, axis=1).min()
    steps = np.linalg.norm(np.diff(frames, axis=0, append=frames[:1]), axis=1)
    assert steps.max() < 3 * steps.min()  # even steps, the one back to the first included


def test_a_walk_between_opposite_latents_stays_finite() -> None:
    z = np.array([[1, 0], [-1, 0], [0, 0]], np.float32)
    assert all(np.isfinite(block.z).all() for block in walk([Block(z)], 4))


LABEL_ROWS = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", DOC, re.MULTILINE)


@pytest.mark.parametrize(("seed", "i", "of_ten", "of_thousand"), [tuple(map(int, row)) for row in LABEL_ROWS])
def test_labels_are_those_of_the_page(seed: int, i: int, of_ten: int, of_thousand: int) -> None:
    assert len(LABEL_ROWS) == 7
    for count, expected in ((10, of_ten), (1000, of_thousand)):
        word, _ = threefry2x32(seed, np.array([i], np.uint32), np.array([65536], np.uint32))
        assert labels(seed, i, 1, count).tolist() == [expected] == [count * int(word[0]) >> 32]


def test_labels_are_even_and_of_a_known_number_of_classes() -> None:
    counts = np.bincount(labels(0, 0, 100_000, 10))
    assert counts.min() > 9_500
    assert counts.max() < 10_500
    for number in (0, 65_537):
        with pytest.raises(LatentError, match="1 to 65536 classes"):
            labels(0, 0, 1, number)
