"""Checkerboard energy: how much of the images' power lies where upsampling leaves its traces.

Odena, Dumoulin and Olah, "Deconvolution and checkerboard artifacts", Distill 2016, doi:10.23915/distill.00003: a
stride-2 transposed convolution may paint a pattern of period 2, and a second one after it stretches the first one's to
period 4. In the spectrum these are the frequencies of a half and a quarter of the sampling rate, in either direction or
both.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def checkerboard_energy(images: npt.NDArray[np.uint8], period: int) -> float:
    """Share of the images' power, their mean brightness apart, at the frequencies of a period.

    Args:
        images: uint8, shape (N, H, W), H and W multiples of `period`.
        period: in pixels: 2 for the last upsampling layer, 4 for the one before.
    Returns:
        From 0 to 1; compare with real images' share.
    """
    _, height, width = images.shape
    if height % period or width % period:
        raise ValueError(f"images of {height}x{width} pixels have no frequency of period {period}")
    power = (np.abs(np.fft.fft2(images.astype(np.float64))) ** 2).mean(0)
    power[0, 0] = 0.0
    rows = (0, height // period, height - height // period)
    columns = (0, width // period, width - width // period)
    places = {(u, v) for u in rows for v in columns} - {(0, 0)}
    return float(sum(power[u, v] for u, v in places) / power.sum())
