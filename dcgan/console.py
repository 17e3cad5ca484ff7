"""What dcgan-train says while it works."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .run import RunOptions
    from .trainer import Trainer


class Console:
    """A progress bar where stderr is a terminal, and a line an epoch on stdout; leaving the context clears the bar."""

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._looked = 0.0
        self._bar: Any = None

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, trainer: Trainer) -> None:
        batch = self._options.recipe.batch_size
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=trainer.total_steps * batch,
                initial=(trainer.steps_done - 1) * batch,
                unit=" images",
                unit_scale=True,
                dynamic_ncols=True,
                disable=not sys.stderr.isatty(),
                leave=False,
            )
        self._bar.update(batch)
        if not self._bar.disable and time.monotonic() - self._looked > 0.5:  # reading a loss waits for the device
            self._looked = time.monotonic()
            steps = (trainer.steps_done - 1) % trainer.steps_per_epoch + 1
            d_loss, g_loss = (trainer.epoch_losses / steps).tolist()
            self._bar.set_description(f"epoch {(trainer.steps_done - 1) // trainer.steps_per_epoch + 1}", refresh=False)
            self._bar.set_postfix_str(f"G {g_loss:.3f}, D {d_loss:.3f}", refresh=False)

    def epoch(self, row: dict[str, Any]) -> None:
        epochs = self._options.recipe.epochs
        line = (
            f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}   G loss {row['g_loss']:.4f}   "
            f"D loss {row['d_loss']:.4f}   {row['images_per_second']:,.0f} images/s"
            f"{'   Frechet distance ' + format(row['frechet_distance'], '.2f') if 'frechet_distance' in row else ''}"
        )
        if self._bar is not None and not self._bar.disable:
            self._bar.write(line, file=sys.stdout)
        else:
            click.echo(line)

    def summary(self, generator: Path, rows: list[dict[str, Any]]) -> None:
        if self._bar is None:  # no step was taken
            click.echo("the run was finished already, there was nothing to do")
        click.echo(f"\nlayer                   active units   dead units   (after epoch {rows[-1]['epoch']})")
        for network, layers in rows[-1]["activity"].items():
            for layer in layers:
                name = f"{network}.{layer['layer']}"
                click.echo(f"{name:<24}{layer['active']:>10.1%}{layer['dead']:>13.1%}")
        minutes = sum(row["seconds"] for row in rows) / 60
        click.echo(f"\nfinished in {minutes:.1f} min: {generator}")
        click.echo(f"export it with: dcgan-export {shlex.quote(str(generator))} --format onnx")
