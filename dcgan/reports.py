"""What a run leaves for people to look at: a sample grid per epoch, a line per epoch, and the loss curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcgan_infer.contract.files import replacing
from dcgan_infer.contract.pixels import tile, to_pictures
from dcgan_infer.extras import new_figure

from .networks import Generator

_SIDE = 112  # screen pixels of an image, at least: 28 are a postage stamp on today's screens


@torch.no_grad()
def write_sample_grid(path: Path, generator: Generator, columns: int, z: Tensor, label: Tensor | None = None) -> None:
    """Write a grid of images.

    Args:
        path: a .png to write.
        generator: run in eval mode; its mode is put back.
        columns: of the grid.
        z: float32, shape (rows * columns, latent_dim).
        label: int64, shape (rows * columns,), for a conditional generator.
    """
    training = generator.training
    generator.eval()
    images = to_pictures(generator(z, label).float().cpu().numpy(), generator.spec.value_range)
    generator.train(training)
    sheet = Image.fromarray(tile(images, len(images) // columns, columns))
    scale = max(1, _SIDE // images.shape[1])
    with replacing(path) as temporary:
        sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(temporary)


class TensorBoard:
    """Events for TensorBoard: losses, figures and samples of each epoch; a context.

    Args:
        folder: to write to.
        epochs_done: by the run before; what an interrupted process wrote after them is hidden.
    """

    def __init__(self, folder: Path, epochs_done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # seconds, and an extra

        self._writer = SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *_error: object) -> None:
        self._writer.close()

    def write(self, row: dict[str, Any], samples: Path) -> None:
        """Add an epoch.

        Args:
            row: of `metrics.jsonl`.
            samples: picture of the sample grid.
        """
        for name in ("g_loss", "d_loss", "images_per_second", "frechet_distance"):
            if name in row:
                self._writer.add_scalar(name, row[name], row["epoch"])
        with Image.open(samples) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._writer.add_image("samples", pixels, row["epoch"], dataformats="HWC")
        self._writer.flush()


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
    epochs = [row["epoch"] for row in rows]
    figure = new_figure(figsize=(7, 4), layout="constrained")  # a second of imports that only the end of a run needs
    from matplotlib.ticker import MaxNLocator

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
