"""Latents by contract: latent i of a seed has the same bits for any count, batch size, machine and release.

The contract, with test vectors for other languages, is docs/contracts.md. In short: Threefry-2x32 with 20 rounds
(Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns (seed, i, j) into two
random words, and Box-Muller turns those into the normals 2j and 2j + 1 of latent i.

Only operations that IEEE 754 rounds correctly touch the float64 values (+ - * / sqrt, one rounding each);
the logarithm, sine and cosine are the short series below. The math library's own differ in the last bit between
processors and releases, and that bit would sometimes reach the float32 result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .errors import LatentError
from .spec import INDICES, SEEDS

PAIRS = 1 << 16  # of normals in a latent
LABEL_COUNTER = PAIRS  # second counter word of labels; larger ones are reserved for later streams

_U32 = npt.NDArray[np.uint32]
_I64 = npt.NDArray[np.int64]
_F64 = npt.NDArray[np.float64]
_F32 = npt.NDArray[np.float32]

_MASK = 0xFFFFFFFF
PARITY = 0x1BD11BDA  # C240 of Threefish, its 32-bit half as Random123 takes it
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
ROUNDS = 20

# 2 atanh(s) / s and sin(t) / t, cos(t) by powers of s^2 and t^2, lowest first; the first term left out is under 1e-16.
_ATANH = tuple(2.0 / (2 * k + 1) for k in range(11))
_SIN = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(8))
_COS = tuple((-1.0) ** k / math.factorial(2 * k) for k in range(9))
_LN2 = float.fromhex("0x1.62e42fefa39efp-1")
_SQRT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")
_HALF_PI = float.fromhex("0x1.921fb54442d18p+0")

_BLOCK = 8192  # pairs at a time: 0.5 MB of buffers, inside a second-level cache (fastest of 2^9 ... 2^16, measured)


def latents(seed: int, start: int, count: int, latent_dim: int) -> _F32:
    """Latents `start` to `start + count - 1` of a seed.

    Args:
        seed: 0 to 2^63 - 1.
        start: index of the first latent, 0 to 2^32 - 1.
        count: number of latents, 0 or more; start + count is 2^32 at most.
        latent_dim: length of a latent, 1 to 2^17.
    Returns:
        float32, shape (count, latent_dim), standard normal.
    Raises:
        LatentError: an argument is out of its range.
    """
    _check_range(seed, start, count)
    if not 1 <= latent_dim <= 2 * PAIRS:
        raise LatentError(f"a latent has 1 to {2 * PAIRS} values, asked for {latent_dim}")
    pairs = (latent_dim + 1) // 2
    result = np.empty((count, latent_dim), dtype=np.float32)
    rows = max(1, _BLOCK // pairs)
    for first in range(0, count, rows):
        block = result[first : first + rows]
        i = np.arange(start + first, start + first + len(block), dtype=np.uint32)
        j = np.arange(pairs, dtype=np.uint32)
        words = threefry2x32(seed, np.repeat(i, pairs), np.tile(j, len(block)))
        even, odd = _box_muller(*words)
        block[:, 0::2] = even.reshape(len(block), pairs)
        block[:, 1::2] = odd.reshape(len(block), pairs)[:, : latent_dim // 2]
    return result


def labels(seed: int, start: int, count: int, num_classes: int) -> _I64:
    """Labels of latents `start` to `start + count - 1` of a seed, where nobody asks for others.

    Args:
        seed: 0 to 2^63 - 1.
        start: index of the first latent, 0 to 2^32 - 1.
        count: number of labels, 0 or more; start + count is 2^32 at most.
        num_classes: 1 to 2^16.
    Returns:
        int64, shape (count,), from 0 to num_classes - 1, each about equally often.
    Raises:
        LatentError: an argument is out of its range.
    """
    _check_range(seed, start, count)
    if not 1 <= num_classes <= 1 << 16:
        raise LatentError(f"labels are of 1 to 65536 classes, asked for {num_classes}")
    i = np.arange(start, start + count, dtype=np.uint32)
    word, _ = threefry2x32(seed, i, np.full_like(i, LABEL_COUNTER))
    # floor(num_classes word / 2^32): no division, and off from equal shares by 2^-16 at most.
    result: _I64 = (word.astype(np.uint64) * np.uint64(num_classes) >> np.uint64(32)).astype(np.int64)
    return result


def asked_labels(seed: int, count: int, asked: Sequence[int], num_classes: int) -> _I64:
    """Labels of images 0 to `count - 1` of a seed: those that are asked for in turn, where negative the seed's own.

    Args:
        seed: 0 to 2^63 - 1.
        count: number of labels, 0 or more.
        asked: below `num_classes`; image i gets the one at i modulo their number. None: all are the seed's own.
        num_classes: 1 to 2^16.
    Returns:
        int64, shape (count,), from 0 to num_classes - 1.
    Raises:
        LatentError: an argument is out of its range.
    """
    drawn = labels(seed, 0, count, num_classes)
    if not asked:
        return drawn
    if max(asked) >= num_classes:
        raise LatentError(f"labels are below {num_classes}, asked for {max(asked)}")
    turn = np.array(asked, np.int64)[np.arange(count) % len(asked)]
    return np.where(turn < 0, drawn, turn)


def _check_range(seed: int, start: int, count: int) -> None:
    if not 0 <= seed < SEEDS:
        raise LatentError(f"a seed is an integer from 0 to 2^63 - 1, found {seed}")
    if start < 0 or count < 0 or start + count > INDICES:
        raise LatentError(
            f"a seed has the latents 0 to 2^32 - 1, asked for {count} from {start}; take another seed for more"
        )


def threefry2x32(key: int, c0: _U32, c1: _U32) -> tuple[_U32, _U32]:
    """Threefry-2x32 with 20 rounds.

    Args:
        key: 64 bits, the low word first.
        c0: first counter words, uint32, shape (K,).
        c1: second counter words, uint32, shape (K,).
    Returns:
        Two random words for each counter, uint32, shape (K,) each.
    """
    k0, k1 = key & _MASK, key >> 32
    keys = (k0, k1, PARITY ^ k0 ^ k1)
    x0 = c0 + np.uint32(k0)
    x1 = c1 + np.uint32(k1)
    low = np.empty_like(x1)
    for number in range(ROUNDS):
        x0 += x1
        distance = ROTATIONS[number % 8]
        np.left_shift(x1, np.uint32(distance), out=low)
        np.right_shift(x1, np.uint32(32 - distance), out=x1)
        x1 |= low
        x1 ^= x0
        if number % 4 == 3:
            step = number // 4 + 1
            x0 += np.uint32(keys[step % 3])
            x1 += np.uint32((keys[(step + 1) % 3] + step) & _MASK)
    return x0, x1


def _box_muller(x0: _U32, x1: _U32) -> tuple[_F64, _F64]:
    """Two independent standard normals from each pair of words, by their upper 24 bits.

    With u1 = ((x0 >> 8) + 1) / 2^24 in (0, 1] and u2 = (x1 >> 8) / 2^24 in [0, 1): r = sqrt(-2 ln u1), and the
    normals are r cos(2 pi u2) and r sin(2 pi u2). Both u are exact in float32 too.
    """
    # ln u1 = exponent ln 2 + ln f with f in [sqrt(1/2), sqrt 2) and ln f = 2 atanh((f - 1) / (f + 1)).
    f, exponent = np.frexp(((x0 >> np.uint32(8)) + np.uint32(1)).astype(np.float64) * 2.0**-24)
    small = f < _SQRT_HALF
    f += f * small
    s = (f - 1.0) / (f + 1.0)
    log = (exponent - small) * _LN2 + s * _series(_ATANH, s * s)
    radius = np.sqrt(0.0 - 2.0 * log)

    # 2 pi u2 is a whole number of quarter turns, and a rest t of at most an eighth of a turn on either side.
    quarters = (x1 >> np.uint32(8)).astype(np.float64) * 2.0**-22
    whole = np.rint(quarters)
    t = (quarters - whole) * _HALF_PI
    square = t * t
    sine, cosine = t * _series(_SIN, square), _series(_COS, square)
    turn = whole.astype(np.uint32)
    swapped = (turn & np.uint32(1)).astype(bool)
    even = np.where(swapped, sine, cosine)
    odd = np.where(swapped, cosine, sine)
    even *= 1.0 - ((turn + np.uint32(1)) & np.uint32(2))  # the cosine is negative in the quarters around 1/4 and 1/2
    odd *= 1.0 - (turn & np.uint32(2))
    even *= radius
    odd *= radius
    return even, odd


def _series(coefficients: tuple[float, ...], x: _F64) -> _F64:
    """Horner's rule, a multiplication and an addition at a time, each rounded."""
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total *= x
        total += coefficient
    return total
