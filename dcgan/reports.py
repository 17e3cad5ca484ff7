"""What a run leaves for people to look at: a sample grid per epoch, a line per epoch, and the loss curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dcgan_infer.contract.files import replacing
from dcgan_infer.contract.pixels import tile, to_uint8

from .networks import Generator

_SCALE = 4  # screen pixels a pixel: 28 pixels are a postage stamp on today's screens


@torch.no_grad()
def write_sample_grid(path: Path, generator: Generator, z: Tensor, label: Tensor | None = None) -> None:
    """Write a square grid of grey images.

    Args:
        path: a .png to write.
        generator: run in eval mode; its mode is put back.
        z: float32, shape (side * side, latent_dim).
        label: int64, shape (side * side,), for a conditional generator.
    """
    training = generator.training
    generator.eval()
    images = to_uint8(generator(z, label).float().cpu().numpy())[:, 0]  # (side * side, 28, 28)
    generator.train(training)
    side = round(len(images) ** 0.5)
    sheet = tile(images, side, side)
    size = (sheet.shape[1] * _SCALE, sheet.shape[0] * _SCALE)
    with replacing(path) as temporary:
        Image.fromarray(sheet).resize(size, Image.Resampling.NEAREST).save(temporary)


def write_metrics(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))


def plot_losses(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Draw the mean losses of G and D over the epochs as two curves.

    Args:
        path: a .png to write.
        rows: of `metrics.jsonl`.
        title: above the plot.
    """
    import matplotlib.figure  # a second of imports that only the end of a run needs
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, label, colour in (("g_loss", "generator", "#0b6e99"), ("d_loss", "discriminator", "#d9730d")):
        axes.plot(epochs, [row[key] for row in rows], label=label, color=colour, marker="o", markersize=3)
    axes.set(title=title, xlabel="epoch", ylabel="mean loss")
    axes.set_xlim(0.5, len(epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
